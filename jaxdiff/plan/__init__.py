"""What a training or a sampling would take on devices that are not attached, by the compiler's own word."""

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
