"""Refusing what could not be learned beside a base model."""

import dataclasses

from jaxdiff.adapt import lora
from jaxdiff.config.fields import Adapt, Config

OF_LORA = ("rank", "alpha", "stabilised", "where", "dropout")
OF_CONTROL = ("condition", "embedding")
OF_PRIOR = ("prior_source", "prior_images", "prior_weight")


def check_adapt(config: Config) -> None:
    """Refuses adaptations whose parts do not go together; the base itself is not looked at.

    Raises:
      ValueError: one line that says what to change.
    """
    a = config.adapt
    changed = {field.name for field in dataclasses.fields(a) if getattr(a, field.name) != field.default}
    if a.base is None:
        if changed:
            raise ValueError(f"{flag(min(changed))} is for adapting a model: name that by --base")
        return
    if config.classifies:
        raise ValueError("--base is for models that draw, and --diffusion.objective is 'classification'")
    owners = {name: "lora" for name in OF_LORA} | {name: "control" for name in OF_CONTROL}
    for name in sorted(changed):
        if owners.get(name, a.method) != a.method:
            raise ValueError(f"{flag(name)} is for --adapt.method {owners[name]}, and this is {a.method!r}")
    if a.method == "lora":
        _check_lora(a)
    if a.method == "control" and a.condition is None:
        raise ValueError("--adapt.condition says what the ControlNet is told: edges, outline, mask or thumbnail")
    if a.method == "control" and (a.words or a.text or a.keeps_class):
        raise ValueError("--adapt.words, --adapt.text and --adapt.prior are not for --adapt.method control")
    if a.method == "words" and not a.words:
        raise ValueError("--adapt.words says which words are learned, such as '<star>'")
    if a.method == "words" and a.text:
        raise ValueError("--adapt.text is for --adapt.method lora or full: 'words' trains nothing but words")
    if a.begin and len(a.begin) not in {1, len(a.words)}:
        raise ValueError(
            f"--adapt.begin says {len(a.begin)} words for the {len(a.words)} of --adapt.words: one, or as many"
        )
    if a.begin and not a.words:
        raise ValueError("--adapt.begin says as which word new ones begin, and goes with --adapt.words")
    lost = [word for word in a.words if a.prompts and not any(word in prompt for prompt in a.prompts)]
    if lost:
        raise ValueError(f"none of --adapt.prompts holds the new word {lost[0]!r}: it would not be learned")
    if (a.reads or a.prompts or a.prior) and not config.latent.text:
        raise ValueError(
            f"--base {a.base} reads no texts: leave out --adapt.words, --adapt.text, --adapt.prompts and --adapt.prior"
        )
    _check_prior(a, changed)


def _check_lora(a: Adapt) -> None:
    lora.pattern(a.where)
    if a.rank < 1 or not 0 <= a.dropout < 1 or (a.alpha is not None and a.alpha <= 0):
        raise ValueError("--adapt.rank must be at least 1, --adapt.dropout in [0, 1), and --adapt.alpha above 0")


def _check_prior(a: Adapt, changed: set[str]) -> None:
    given = [name for name in OF_PRIOR if name in changed]
    if given and not a.keeps_class:
        raise ValueError(f'{flag(given[0])} is for prior preservation: say by --adapt.prior what the class is, "a dog"')
    if a.prior_source and "prior_images" in changed:
        raise ValueError("--adapt.prior-images are drawn, and --adapt.prior-source has images already: leave one out")
    if a.prior_weight < 0 or a.prior_images < 1:
        raise ValueError("--adapt.prior-weight must be at least 0, and --adapt.prior-images at least 1")
    if a.prior_images < len(a.prior):
        raise ValueError(
            f"--adapt.prior-images={a.prior_images} are fewer than the {len(a.prior)} prompts of --adapt.prior: ask for "
            "one of each at least"
        )
    if not all(prompt.strip() for prompt in (*a.prior, *a.prompts)):
        raise ValueError("one of --adapt.prior and --adapt.prompts is empty: say what the images show")


def flag(name: str) -> str:
    """A field as it is typed."""
    return f"--adapt.{name.replace('_', '-')}"
