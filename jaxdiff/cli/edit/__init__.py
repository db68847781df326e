"""`jaxdiff edit`."""

import re

from etils import epath

from jaxdiff import pretrained, progress
from jaxdiff.cli.adapters import without_control
from jaxdiff.cli.edit import inversions
from jaxdiff.cli.edit.flags import EditFlags, check_typed, complete
from jaxdiff.cli.edit.job import prepare
from jaxdiff.cli.edit.methods import METHODS, PASSES
from jaxdiff.cli.files import unused, writable
from jaxdiff.cli.flags import parse
from jaxdiff.eval import images


def edit(name: str, args: list[str]) -> None:
    """`jaxdiff edit MODEL ...`."""
    model = pretrained.load(name)
    without_control(model, "edited with")
    model.denoiser()  # raises where it is none
    flags = parse(EditFlags, EditFlags(), args, f"jaxdiff edit {name}")
    check_typed(flags, model)
    kept = None if flags.from_inversion is None else inversions.load(epath.Path(flags.from_inversion), model)
    job = prepare(model, flags := complete(flags, model, kept), kept)
    paths = output_paths(flags)
    with progress.bar(flags.method, PASSES[flags.method] * flags.steps, "steps") as tick:
        panels = METHODS[flags.method](job, tick)
    images.save_png(paths["edited"], images.to_pil(dict(panels)["edited"]))
    images.save_png(paths["sheet"], images.panels(panels))
    for what, path in paths.items():
        print(f"{what:<12} {path}")


def output_paths(flags: EditFlags) -> dict[str, epath.Path]:
    """What will be written where.

    Raises:
      OSError, ValueError: as `writable`.
    """
    about = re.sub(r"[^a-z0-9]+", "-", (flags.prompt or "").lower()).strip("-")[:40]
    of = flags.image or flags.from_inversion
    stem = "_".join(part for part in ("drawn" if of is None else of.stem, flags.method, about) if part)
    if flags.out is None:
        epath.Path("edits").mkdir(exist_ok=True)
        out = unused(epath.Path("edits") / f"{stem}.png", flags.overwrite, beside=("_sheet",))
    else:
        out = epath.Path(flags.out)
    paths = {"edited": out, "sheet": out.with_stem(f"{out.stem}_sheet")}
    if flags.save_inversion is not None:
        paths["inversion"] = epath.Path(flags.save_inversion)
    ending = {"inversion": (".safetensors",)}
    return {what: writable(path, ending.get(what, (".png",)), flags.overwrite) for what, path in paths.items()}
