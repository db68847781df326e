"""Trained models: data that everything else runs; read from files, runs and names, and written."""

from jaxdiff import lazy

_NAMES = {
    "Model": "model",
    "Origin": "model",
    "adapter_names": "shipped",
    "adapter_of": "runs",
    "check_denoiser": "model",
    "check_model": "model",
    "denoiser_of": "model",
    "export_adapter": "export",
    "is_published_adapter": "loading",
    "load": "loading",
    "load_adapter": "loading",
    "load_config": "loading",
    "names": "shipped",
    "read": "files",
    "text_transformer_of": "model",
    "with_adapter": "adapters",
    "with_adapters": "loading",
    "with_ip_adapter": "loading",
    "write": "files",
    "write_adapter": "adapters",
}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _NAMES)  # so that the list of shipped models is there at once
