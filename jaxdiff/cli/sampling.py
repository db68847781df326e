"""What `jaxdiff sample` and `jaxdiff eval` share: how images are drawn, and who guides."""

import dataclasses

from jaxdiff import pretrained
from jaxdiff.cli.flags import parse
from jaxdiff.config import Config
from jaxdiff.eval import draw
from jaxdiff.eval.guided import Guide, make_guide


def load_guide(config: Config, classifier: str | None) -> Guide | None:
    """The classifier that guides, if one is named.

    Raises:
      ValueError, OSError: as `pretrained.load` and `guided.make_guide`.
    """
    if classifier is None:
        return None
    model = pretrained.load(classifier)
    return make_guide(config, model.config, model.params)


def parse_sampling(flags, args: list[str], prog: str):
    """Such flags as a person typed them; of `flags.sample`, what belongs to one sampler is kept only where that one is.

    Args:
      flags: the default, a dataclass with a field `sample`.
      args: what was typed.
      prog: the command, for its help.
    """
    default = flags.sample
    options = {name: getattr(default, name) for name in draw.OPTIONS}
    bare = dataclasses.replace(flags, sample=dataclasses.replace(default, **dict.fromkeys(options)))
    flags = parse(type(flags), bare, args, prog)
    if flags.sample.sampler != default.sampler:
        return flags
    typed = {name: getattr(flags.sample, name) for name in options}
    kept = {name: options[name] if value is None else value for name, value in typed.items()}
    return dataclasses.replace(flags, sample=dataclasses.replace(flags.sample, **kept))
