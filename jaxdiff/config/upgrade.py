"""Configs of earlier versions: their JSON brought to the present form, so that older runs and weights keep loading."""

from collections.abc import Mapping


def upgraded(values: Mapping) -> dict:
    """The JSON values of a config of any version, in the form of the present one.

    Args:
      values: what a `config.json` or the header of a weights file holds.

    Returns:
      The same values where they are of the present form already.

    Example::

        >>> from jaxdiff.config.upgrade import upgraded
        >>> upgraded({"diffusion": {"num_steps": 50}})
        {'diffusion': {'num_levels': 50}}
    """
    values = dict(values)
    if "num_steps" in (diffusion := dict(values.get("diffusion", {}))):
        values["diffusion"] = {"num_levels" if name == "num_steps" else name: v for name, v in diffusion.items()}
    return values
