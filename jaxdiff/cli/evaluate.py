"""`jaxdiff eval`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro
from etils import epath

from jaxdiff import pretrained, progress
from jaxdiff.cli.files import unused, writable
from jaxdiff.cli.sample import load_guide, parse_sampling
from jaxdiff.config import Config, Sample
from jaxdiff.eval import draw, features, guided, quality, report
from jaxdiff.eval.features import Features
from jaxdiff.eval.guided import Guide
from jaxdiff.eval.report import Measure


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Measures a trained model on data that it has not seen.

    Attributes:
      sample: how images are drawn, where drawn ones are measured.
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
    flags = parse_sampling(EvalFlags(model.config.sample), args, f"jaxdiff eval {name}")
    config = dataclasses.replace(model.config, sample=flags.sample)
    guide = load_guide(config, flags.classifier)
    measure = report.complete(flags.measure, config, guide)
    if quality.named(config, measure):
        draw.check(quality.sampled(config, measure), guide)
    judge = load_judge(measure, config, guide)
    path = report_path(flags, measure, epath.Path(model.about.get("run", ".")) / "eval")
    with progress.bar("measuring", report.work(config, measure), "steps") as tick:
        found = report.measured(config, model.params, measure, tick, judge, guide)
    about = model.about | {"source": measure.source, "num": measure.num, "seed": measure.seed}
    about |= {"labels_given": bool(config.net.num_classes)}
    if quality.named(config, measure):
        about |= {"judge": judge and judge.name, "classifier": flags.classifier}
        about |= {"sample": dataclasses.asdict(quality.sampled(config, measure).sample)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"metrics": found}, indent=2) + "\n")
    for what, numbers in found.items():
        for which, value in numbers.items():
            print(f"{what:<16} {which:<15} {f'{value:.5g}' if isinstance(value, float) else value}")
    print(f"of {measure.num} examples of {measure.source}, {about['weights']} weights of step {about['step']}")
    print(f"report    {path}")


def load_judge(measure: Measure, config: Config, guide: Guide | None) -> Features | None:
    """The network that judges drawn images, if there are any to judge.

    Raises:
      ValueError, OSError: there is none; it is no classifier, reads other images, or knows other classes than are drawn.
    """
    if not set(quality.named(config, measure)) & set(quality.NEEDS_JUDGE):
        return None
    if measure.inception:
        return features.inception(measure.inception)
    if measure.judge is None and not config.data.source.startswith("digits"):
        raise ValueError(
            f"{measure.metrics} needs a judge: --inception WEIGHTS (see benchmarks/convert_inception.py), or --judge with "
            "a classifier of such images"
        )
    judge = pretrained.load(measure.judge or "digits_judge")
    if not judge.config.classifies or judge.config.data.image_shape != config.data.image_shape:
        raise ValueError(f"--judge {measure.judge} must be a classifier of images {config.data.image_shape}")
    classes = guided.num_classes(config, guide)
    if "accuracy" in quality.named(config, measure) and judge.config.net.out_channels != classes:
        raise ValueError(f"--judge {measure.judge} must know the {classes} classes that are drawn")
    return features.classifier_features(judge.config.net, judge.params, str(measure.judge or "digits_judge"))


def report_path(flags: EvalFlags, measure: Measure, directory: epath.Path) -> epath.Path:
    """Where the report goes.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      ValueError: a file name that does not end in .json, or whose directory is missing.
    """
    if flags.out is None:
        return unused(directory / f"{measure.metrics.replace(',', '_')}_seed{measure.seed}.json", flags.overwrite)
    return writable(epath.Path(flags.out), (".json",), flags.overwrite)
