"""Reports of plans: memory, arithmetic, traffic and time of programs, as data and as text."""

import math
from typing import NamedTuple

from jaxdiff import meshes
from jaxdiff.config import Config
from jaxdiff.plan import chips, programs
from jaxdiff.plan.chips import Chip
from jaxdiff.plan.programs import Program

USES = ("train", "sample")


class Report(NamedTuple):
    """Programs of a config on a topology.

    Attributes:
      config: name of the config.
      use: "train" or "sample".
      topology: such as "v5e:16x16".
      devices: number of devices.
      mesh: sizes of its axes; {} of pmap.
      slices: pods that are joined by a slower network, which times do not count.
      batch: examples of a step, or images at once, over all devices.
      chip: a device.
      programs: the programs.
      steps: evaluations of the first program for these images.
    """

    config: str
    use: str
    topology: str
    devices: int
    mesh: dict[str, int]
    slices: int
    batch: int
    chip: Chip
    programs: tuple[Program, ...]
    steps: int


def report(
    config: Config, topology: str, use: str = "train", slices: int = 1, dtype: str = "bfloat16", save: str = ""
) -> Report:
    """Compiles the programs of a config for a topology.

    Args:
      config: the config.
      topology: such as "v5e:16x16", or "here".
      use: "train", the training step; or "sample", an evaluation of the network and the decoder.
      slices: see `chips.devices`.
      dtype: of the weights, of "sample".
      save: file for the compiled training step of `train.parallel` "sharded", for `jaxdiff train --compiled-step`.

    Raises:
      ValueError: an unknown topology or use, a step that cannot be kept, or a config that does not fit it.
      ImportError: the package libtpu is missing.
    """
    if use not in USES:
        raise ValueError(f"`use`={use!r} must be one of {', '.join(USES)}")
    chip, devices = chips.devices(topology, slices)
    if save and (use != "train" or config.train.parallel != "sharded"):
        raise ValueError("`save` keeps the training step of `train.parallel` sharded: leave it out")
    made = programs.training(config, devices, save) if use == "train" else programs.sampling(config, devices, dtype)
    mesh = {}
    if config.train.parallel == "sharded":
        mesh = meshes.sizes(meshes.parse(config.train.mesh), len(devices))
    batch = config.train.batch_size if use == "train" else config.sample.batch_size
    steps = 1 if use == "train" else programs.evaluations(config)
    return Report(config.name, use, topology, len(devices), mesh, slices, batch, chip, tuple(made), steps)


def fits(one: Report) -> bool:
    """Returns True if all programs fit into the memory of a device."""
    return not any(program.too_large or used(program) > one.chip.memory for program in one.programs)


def used(program: Program) -> float:
    """Bytes of memory that a program takes on a device."""
    return program.arguments + program.outputs + program.temporaries


def seconds(program: Program, chip: Chip) -> dict[str, float]:
    """The least seconds of a program by arithmetic, by memory and by the interconnect; what is not known is left out."""
    found = {}
    if program.flops is not None and chip.flops:
        found["arithmetic"] = program.flops / chip.flops
    if program.bytes is not None and chip.bandwidth:
        found["memory"] = program.bytes / chip.bandwidth
    if chip.interconnect and program.collectives:
        found["interconnect"] = sum(one.sent for one in program.collectives) / chip.interconnect
    return found


def best(one: Report) -> float | None:
    """The least seconds of a step, or of a batch of images: each program by what takes it longest."""
    if any(program.too_large for program in one.programs):
        return None
    each = [max(found.values(), default=math.nan) for found in (seconds(p, one.chip) for p in one.programs)]
    total = each[0] * one.steps + sum(each[1:])
    return None if math.isnan(total) else total


def efficiency(one: Report) -> float | None:
    """The share of the peak that the arithmetic could have at best."""
    if not (whole := best(one)):
        return None
    arithmetic = [seconds(program, one.chip).get("arithmetic", 0.0) for program in one.programs]
    return (arithmetic[0] * one.steps + sum(arithmetic[1:])) / whole


def cost(one: Report, price: float) -> float | None:
    """Price of a million images at best, where a device costs `price` an hour."""
    whole = best(one)
    return None if whole is None else whole / 3600 * price * one.devices / one.batch * 1e6


def to_values(one: Report, price: float | None = None) -> dict:
    """The report as JSON values."""
    made = []
    for program in one.programs:
        values = program._asdict() | {"used": used(program), "seconds_at_best": seconds(program, one.chip)}
        made.append(values | {"collectives": [collective._asdict() for collective in program.collectives]})
    values = one._asdict() | {"chip": one.chip._asdict(), "programs": made, "fits": fits(one)}
    values |= {"seconds_at_best": best(one), "efficiency_at_best": efficiency(one)}
    return values if price is None else values | {"cost_per_million_images": cost(one, price)}


def text(one: Report, price: float | None = None) -> str:
    """The report as lines."""
    shape = ", ".join(f"{axis}={size}" for axis, size in one.mesh.items()) or "pmap"
    what = f"a batch of {one.batch}" if one.use == "train" else f"{one.batch} images at once"
    lines = [f"{one.config} on {one.devices} devices of {one.topology} ({shape}), {what}; of each device:"]
    for program in one.programs:
        lines += ["", *_program(program, one.chip)]
    lines.append("")
    if (whole := best(one)) is not None:
        per = "step" if one.use == "train" else f"{one.batch} images, {one.steps} evaluations of the network"
        lines.append(f"at best         {_time(whole)} for each {per}: {one.batch / whole:.4g} images/s")
        if one.slices > 1:
            lines.append(f"network         what travels between the {one.slices} slices is not in these times")
        lines.append(f"efficiency      at most {efficiency(one):.0%} of the peak")
        if price is not None:
            at = f"at {price:g} an hour and device"
            lines.append(f"cost            {cost(one, price):.2f} for a million images at best, {at}")
    lines.append("fits            yes" if fits(one) else "fits            no")
    return "\n".join(lines)


def _program(program, chip):
    lines = [f"{program.name} (compiled in {program.seconds:.0f} s)"]
    parts = ", ".join(f"{name} {_size(size)}" for name, size in program.parts.items())
    if program.too_large:
        return [*lines, f"  memory        too little: {program.too_large}", f"  arguments     {parts}"]
    parts += f", temporaries {_size(program.temporaries)}"
    lines.append(f"  memory        {_size(used(program))} of {_size(chip.memory)}: {parts}")
    if program.flops is not None:
        formula = f", {program.by_formula / 1e12:.3g} of them by formula" if program.by_formula else ""
        lines.append(f"  arithmetic    {program.flops / 1e12:.4g} TFLOP{formula}")
    if program.bytes is not None:
        lines.append(f"  traffic       {program.bytes / 1e9:.4g} GB between chip and memory")
    for one in program.collectives:
        lines.append(f"  {one.kind:<20} {one.count} of {one.bytes / 1e9:.4g} GB in all, {one.sent / 1e9:.4g} GB sent")
    if found := seconds(program, chip):
        longest = max(found, key=found.get)
        times = ", ".join(f"{name} {_time(each)}" for name, each in found.items())
        lines.append(f"  roofline      {times}: bound by {longest}")
    return lines


def _size(size):
    return f"{size / 2**30:.3g} GiB" if size >= 2**29 else f"{size / 2**20:.3g} MiB"


def _time(seconds):
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
