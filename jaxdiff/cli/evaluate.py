"""`jaxdiff eval`."""

import dataclasses
import json
from typing import Annotated

import tyro
from etils import epath

from jaxdiff import model as models
from jaxdiff import progress
from jaxdiff.cli.adapters import AdapterFlags, control_input, parsed
from jaxdiff.cli.files import File, check_no_input, located, output_dir, unused, writable
from jaxdiff.config import Sample, to_values
from jaxdiff.eval import evaluate, quality
from jaxdiff.eval.evaluate import Plan
from jaxdiff.eval.measure import Measure
from jaxdiff.files import write_whole
from jaxdiff.pipeline import Request, requests


@dataclasses.dataclass(frozen=True)
class EvalFlags(AdapterFlags):
    """Evaluates a model on data that it was not trained on.

    Attributes:
      sample: how images are sampled, for metrics of sampled images; their number, batch size and seed are those below.
      classifier: classifier of noisy images that guides to the labels, see `jaxdiff sample`.
      measure: metrics, and the data that they are of.
      out: the report (.json) to write; by default a new file in RUN/eval, or in eval where the model is not a run.
      overwrite: replace a report that is there.
    """

    sample: Sample = Sample()
    classifier: str | None = None
    measure: Annotated[Measure, tyro.conf.arg(name="")] = Measure()
    out: File = None
    overwrite: bool = False


DEFAULT = EvalFlags()


def main(name: str, args: list[str]) -> None:
    """`jaxdiff eval MODEL ...`."""
    model = models.load(name)
    of = lambda model: EvalFlags(sample=evaluate.default_sample(model))
    flags, model = parsed(model, of, args, f"jaxdiff eval {name}")
    directory = epath.Path(model.origin.run or ".") / "eval"
    classifier = flags.classifier and models.load(flags.classifier)
    check_sampling(flags.sample, of(model).sample)
    control = control_input(requests.sized(model, flags.sample), flags)
    request = Request(flags.sample, None, classifier, control)
    plan = evaluate.prepared(Plan(model, flags.measure, request))
    path = report_path(flags, plan.measure, directory, name)
    with progress.bar("measuring", evaluate.work(plan), "steps") as tick:
        found = evaluate.measured(plan, tick)
    write_whole(path, json.dumps(about(plan, flags) | {"metrics": found}, indent=2) + "\n")
    for metric, numbers in found.items():
        for which, value in numbers.items():
            print(f"{metric:<16} {which:<15} {f'{value:.5g}' if isinstance(value, float) else value}")
    origin, measure = model.origin, plan.measure
    print(f"of {measure.num} examples of {measure.source}, {origin.weights} weights of step {origin.step}")
    print(f"report    {path}")


def about(plan: Plan, flags: EvalFlags) -> dict:
    """Settings behind the numbers of a report."""
    measure, origin = plan.measure, dataclasses.asdict(plan.model.origin)
    found = {name: value for name, value in origin.items() if value is not None}
    found |= {"source": measure.source, "num": measure.num, "seed": measure.seed}
    found |= {"lora": list(flags.lora), "controlnet": list(flags.controlnet)}
    if plan.samples_images:
        sample = dataclasses.replace(quality.sampled(plan, None).sample, prompts=flags.sample.prompts)
        found |= {"judge": plan.judge and plan.judge.name, "clip": plan.clip and plan.clip.origin.name}
        found |= {"classifier": flags.classifier, "sample": to_values(sample)}
    return found


def check_sampling(sample: Sample, default: Sample) -> None:
    """Raises ValueError for flags of sampling in place of those of `Measure`."""
    for field in ("num", "batch_size", "seed"):
        if getattr(sample, field) != getattr(default, field):
            flag = field.replace("_", "-")
            raise ValueError(f"--sample.{flag} is --{flag} here, which is of real and of sampled images")


def report_path(flags: EvalFlags, measure: Measure, directory: epath.Path, name: str = "") -> epath.Path:
    """The file of the report; `name` is that of the model, which is read.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      OSError, ValueError: as `writable`, or the directory cannot be made.
    """
    if flags.out is not None:
        out = located(flags.out, "out")
        check_no_input([out], [name])
        return writable(out, (".json",), flags.overwrite)
    return unused(
        output_dir(directory) / f"{measure.metrics.replace(',', '_')}_seed{measure.seed}.json", flags.overwrite
    )
