"""Memory, arithmetic and traffic of programs on devices that are not attached, as the compiler counts them."""

from jaxdiff import lazy

_NAMES = {
    "CHIPS": "chips",
    "Program": "programs",
    "Report": "reports",
    "report": "reports",
    "sampling": "programs",
    "training": "programs",
}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _NAMES)
