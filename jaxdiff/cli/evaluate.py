"""`jaxdiff eval`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro
from etils import epath

from jaxdiff import pretrained, progress
from jaxdiff.cli.adapters import without_control
from jaxdiff.cli.files import unused, writable
from jaxdiff.cli.sampling import load_guide, parse_sampling
from jaxdiff.config import Config, Sample
from jaxdiff.eval import draw, features, guided, quality, report
from jaxdiff.eval.features import Features
from jaxdiff.eval.guided import Guide
from jaxdiff.eval.measure import DRAWN, JUDGED, Measure, complete
from jaxdiff.files import write_whole


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Measures a trained model on data that it has not seen.

    Attributes:
      sample: how images are drawn, where drawn ones are measured; their number, batch size and seed are those below.
      classifier: a classifier of noisy images that leads those to labels, see `jaxdiff sample`.
      measure: what, and on what.
      out: the report (.json) to write; by default a new file in RUN/eval.
      overwrite: replace a report that is there.
    """

    sample: Sample
    classifier: str | None = None
    measure: Annotated[Measure, tyro.conf.arg(name="")] = Measure()
    out: Path | None = None
    overwrite: bool = False


def evaluate(name: str, args: list[str]) -> None:
    """`jaxdiff eval MODEL ...`."""
    model = pretrained.load(name)
    default = EvalFlags(model.config.sample)
    flags = parse_sampling(default, args, f"jaxdiff eval {name}")
    without_control(model, "measured")
    config = dataclasses.replace(model.config, sample=flags.sample)
    guide = load_guide(config, flags.classifier)
    measure = complete(flags.measure, config, guide)
    drawn = config.draws and measure.named(DRAWN)
    check_sampling(flags, default.sample, bool(drawn))
    if drawn:
        draw.check(quality.sampled(config, measure), guide)
    judge = load_judge(measure, config, guide)
    path = report_path(flags, measure, epath.Path(model.about.get("run", ".")) / "eval")
    with progress.bar("measuring", report.work(config, measure), "steps") as tick:
        found = report.measured(config, model.params, measure, tick, judge, guide, model.tokenizer)
    about = model.about | {"source": measure.source, "num": measure.num, "seed": measure.seed}
    about |= {"labels_given": bool(config.draws and config.classes)}
    if drawn:
        about |= {"judge": judge and judge.name, "classifier": flags.classifier}
        about |= {"sample": dataclasses.asdict(quality.sampled(config, measure).sample)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(about | {"metrics": found}, indent=2) + "\n")
    for what, numbers in found.items():
        for which, value in numbers.items():
            print(f"{what:<16} {which:<15} {f'{value:.5g}' if isinstance(value, float) else value}")
    print(f"of {measure.num} examples of {measure.source}, {about['weights']} weights of step {about['step']}")
    print(f"report    {path}")


def check_sampling(flags: EvalFlags, default: Sample, drawn: bool) -> None:
    """Refuses flags of sampling that would make no difference.

    Raises:
      ValueError: nothing is drawn, or the flag is one of `Measure`'s.
    """
    for field in ("num", "batch_size", "seed"):
        if getattr(flags.sample, field) != getattr(default, field):
            flag = field.replace("_", "-")
            raise ValueError(f"--sample.{flag} is --{flag} here, which is of real and of drawn images")
    if not drawn and (flags.sample != default or flags.classifier):
        raise ValueError(f"--sample and --classifier are for {', '.join(DRAWN)} of drawn images: leave them out")


def load_judge(measure: Measure, config: Config, guide: Guide | None) -> Features | None:
    """The network that judges drawn images, if there are any to judge.

    Raises:
      ValueError, OSError: there is none; it is no classifier, reads other images, or knows other classes than are drawn.
    """
    if not config.draws or not measure.named(JUDGED):
        return None
    if measure.inception:
        return features.inception(measure.inception)
    if measure.judge is None and not config.data.source.startswith("digits"):
        raise ValueError(
            f"{measure.metrics} needs a judge: --inception WEIGHTS (see benchmarks/convert_inception.py), or --judge with "
            "a classifier of such images"
        )
    name, shape = measure.judge or "digits_judge", config.data.image_shape
    judge = pretrained.load(name)
    if not judge.config.classifies or judge.config.data.image_shape != shape:
        raise ValueError(f"--judge {name} must be a classifier of images {shape}: train one, or take --inception")
    classes = guided.num_classes(config, guide)
    if measure.named(("accuracy",)) and judge.config.net.out_channels != classes:
        raise ValueError(f"--judge {name} must know the {classes} classes that are drawn: leave accuracy out")
    learned_from = judge.about["trained_on"]
    return features.classifier_features(judge.config.net, judge.params, f"{name}, which learned from {learned_from}")


def report_path(flags: EvalFlags, measure: Measure, directory: epath.Path) -> epath.Path:
    """Where the report goes.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      ValueError: a file name that does not end in .json, or whose directory is missing.
    """
    if flags.out is None:
        return unused(directory / f"{measure.metrics.replace(',', '_')}_seed{measure.seed}.json", flags.overwrite)
    return writable(epath.Path(flags.out), (".json",), flags.overwrite)
