"""Configs of version 0.1: their JSON in the present form, so that older runs and files of weights keep loading."""

from collections.abc import Mapping

SAMPLER_OPTIONS = ("eta", "variance", "churn", "order", "snr")
METHODS = {"lora": "lora", "full": "dreambooth", "words": "textual_inversion", "control": "controlnet"}
RENAMED = {
    "data": {"wrong": "hard_negatives"},
    "diffusion": {"num_steps": "num_levels", "drop": "cond_dropout"},
    "latent": {"factor": "scaling_factor", "text": "text_encoder", "skip": "skip_blocks"},
    "reconstruction": {"dead": "dead_below"},
}


def upgraded(values: Mapping) -> dict:
    """The JSON values of a config of any version, in the form of the present one.

    Args:
      values: JSON object of a `config.json`, or of the header of a weights file.

    Returns:
      JSON values of the present form; `values` if they are of it already.

    Example::

        >>> from jaxdiff.config.upgrade import upgraded
        >>> old = {"net": {"out_channels": 1}, "diffusion": {"num_steps": 50}, "sample": {"sampler": "heun", "churn": 0.5}}
        >>> upgraded(old)["diffusion"], upgraded(old)["sample"]
        ({'num_levels': 50}, {'sampler': {'kind': 'heun', 'churn': 0.5}})
    """
    if not _is_earlier(values):
        return _without_profiles(values)
    new = {section: _renamed(section, fields) for section, fields in values.items()}
    new["net"] = _net(new)
    changes = {"data": _data, "sample": _sample, "adapt": _adapt}
    return new | {section: change(new[section]) for section, change in changes.items() if section in new}


def _without_profiles(values):
    """The colours of a folder as they were read before profiles were, of configs that do not say it."""
    data = values.get("data", {})
    source = data.get("source") if isinstance(data, Mapping) else None
    if not isinstance(source, Mapping) or source.get("kind") != "folder" or "to_srgb" in source:
        return dict(values)
    return dict(values) | {"data": dict(data) | {"source": dict(source) | {"to_srgb": False}}}


def _is_earlier(values):
    """Whether sections hold fields, the network does not name its kind, and the data source is a text."""
    sections = [fields for name, fields in values.items() if name != "name"]
    if "net" not in values or not all(isinstance(fields, Mapping) for fields in sections):
        return False
    return "kind" not in values["net"] and isinstance(values.get("data", {}).get("source", ""), str)


def _renamed(section, fields):
    if section == "name":
        return fields
    names = RENAMED.get(section, {})
    return {names.get(name, name): value for name, value in fields.items()}


def _net(values):
    """The network with its kind, which followed from its fields, the objective, and the loss of an autoencoder."""
    net, size = dict(values["net"]), values.get("reconstruction", {}).pop("words", 0)
    if "vision" in net:
        return {"kind": "clip"} | net | {"text": {"kind": "text_encoder"} | net["text"]}
    if "vocabulary" in net:
        return {"kind": "text_encoder"} | net
    if "latent_channels" in net:
        return {"kind": "autoencoder"} | net | {"codebook_size": size}
    if values.get("diffusion", {}).get("objective") == "classification":
        values["diffusion"].pop("objective")
        return {"kind": "classifier"} | net
    return {"kind": "unet"} | net


def _data(data):
    """The source as a choice with the options that only it has."""
    data = dict(data)
    kind, _, rest = data.pop("source", "digits").partition(":")
    resize, skip_broken = data.pop("resize", False), data.pop("skip_broken", False)
    if kind == "folder":
        source = {"path": rest} | ({"skip_broken": True} if skip_broken else {}) | {"to_srgb": False}
    else:
        source = {"name" if kind == "tfds" else "split": rest} | ({"resize": True} if resize else {})
    return {"source": {"kind": kind} | {name: v for name, v in source.items() if v != ""}} | data


def _sample(sample):
    """The sampler as a choice with its options; None was the sampler's default."""
    sample = dict(sample)
    options = {name: sample.pop(name) for name in SAMPLER_OPTIONS if name in sample}
    options = {name: value for name, value in options.items() if value is not None}
    if "sampler" in sample:
        if sample["sampler"] == "dpmpp_2m_sde":
            sample["sampler"], options = "dpmpp_2m", {"sde": True}
        if sample["sampler"] == "ddim_cfgpp":
            options = {"scale": sample.pop("guidance", 1.0)}
        sample["sampler"] = {"kind": sample["sampler"]} | options
    return sample


def _adapt(adapt):
    """The adaptation by its method, with the fields that this method has."""
    if adapt.get("base") is None:
        return {"kind": "none"}
    method = adapt.get("method", "lora")
    kind = METHODS.get(method, method)
    take = lambda **names: {new: adapt[old] for new, old in names.items() if old in adapt}
    new = {"kind": kind} | take(base="base", prompts="prompts")
    if kind == "controlnet":
        return new | take(condition="condition", embedding="embedding")
    new["new"] = take(tokens="words", initial="begin")
    new["prior"] = take(prompts="prior", source="prior_source", num="prior_images", weight="prior_weight")
    if kind == "lora":
        new |= take(rank="rank", alpha="alpha", rank_stabilised="stabilised", targets="where", dropout="dropout")
    return new | (take(text_encoder="text") if kind in ("lora", "dreambooth") else {})
