"""The programs of a config for devices that need not be attached: the very ones that would run, compiled and counted."""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import meshes, samplers
from jaxdiff import model as models
from jaxdiff.config import Config, checks
from jaxdiff.data import Source
from jaxdiff.latent import kl_codec
from jaxdiff.model import adaptation
from jaxdiff.model.frozen_models import FrozenModels, open_models
from jaxdiff.model.params import trained_shapes
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.plan import hlo
from jaxdiff.seeds import key_of
from jaxdiff.train import base_model, initial, kept_step, parallel, setup
from jaxdiff.types import Cond, Guided, Prediction


class Program(NamedTuple):
    """A compiled program, of one device.

    Attributes:
      name: what it computes.
      parts: bytes of its arguments, by what they are.
      arguments: bytes of all of them.
      outputs: bytes of its results that take no argument's place.
      temporaries: bytes of everything between.
      flops: operations; None where it is not known.
      bytes: read from memory and written to it; None where it is not known.
      collectives: exchanges between devices.
      by_formula: FLOPs among `flops` of kernels that the compiler knows no cost of.
      seconds: of compiling.
      too_large: what the compiler says where the memory does not suffice, and the largest arrays; "" where it does.
    """

    name: str
    parts: dict[str, float]
    arguments: float = 0.0
    outputs: float = 0.0
    temporaries: float = 0.0
    flops: float | None = None
    bytes: float | None = None
    collectives: tuple[hlo.Collective, ...] = ()
    by_formula: float = 0.0
    seconds: float = 0.0
    too_large: str = ""


def training(config: Config, devices: tuple, save: str = "") -> list[Program]:
    """One training step; with `data.buckets` that of the bucket of most pixels, which takes the most memory.

    Args:
      config: config of a run, with `train.parallel` and `train.mesh`.
      devices: see `chips.devices`.
      save: file for the compiled step, with all its `train.steps_per_call`, if it fits; "" is none.

    Raises:
      ValueError: a config that cannot be trained on so many devices.
    """
    base = base_model.open_base(config, None)
    config = base_model.with_base(config, base and base.config)
    local = sum(device.process_index == devices[0].process_index for device in devices)
    checks.check(config, len(devices), local, devices[0].platform)
    if save and config.data.buckets:
        raise ValueError("`save` keeps the step of images of one size, and `data.buckets` has several: leave it out")
    config = of_largest_bucket(dataclasses.replace(config, net=with_kernel(config.net, devices, True)))
    # One step: of a loop the compiler counts the body once, whatever its length.
    one = dataclasses.replace(config, train=dataclasses.replace(config.train, steps_per_call=1))
    lowered, parts = _lowered_step(one, base, devices)
    write = functools.partial(_write_step, save, parallel.of(config.train, devices)) if save else None
    program = compiled("training step", lowered, parts, len(devices), write if config == one else None)
    if write and config != one and not program.too_large:  # all the steps of a call
        several, _ = _lowered_step(config, base, devices)
        write(several.compile(), several)
    return [_repeated(program, config.train.accumulate)]


def of_largest_bucket(config: Config) -> Config:
    """The config with images, and latents, of the bucket of most pixels alone; one without buckets as it is."""
    d, (h, w, channels) = config.data, config.shape
    if not d.buckets:
        return config
    height, width = max(d.buckets, key=math.prod)
    shape = height * h // d.image_shape[0], width * w // d.image_shape[1], channels
    latent = dataclasses.replace(config.latent, shape=shape) if config.latent.shape else config.latent
    data = dataclasses.replace(d, image_shape=(height, width, d.image_shape[2]), buckets=())
    return dataclasses.replace(config, data=data, latent=latent)


def _write_step(path, placement, made, lowered):
    kept_step.write(path, made, lowered, placement.mesh)


def _lowered_step(config, base, devices):
    """The training step, lowered, and the bytes of its arguments on a device, by what they are."""
    frozen, placement = _frozen(config, base), parallel.of(config.train, devices)
    state = placement.placed_shapes(initial.state_shapes(config, base))
    rows = placement.row_shapes(batch_shapes(config, frozen), axis=1)
    rest = ()
    if base:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), adaptation.frozen_params(config, base))
        rest = (placement.placed_shapes(shapes),)
    step, key = setup.make_step(config, frozen, placement), initial.step_key(config)
    share = lambda tree: _per_device(tree, placement)
    parts = {"parameters": share(state.params), "average": share(state.ema), "optimizer": share(state.opt_state)}
    parts |= {"frozen": share(rest)} if rest else {}
    return placement.lower(step, state, key, rows, *rest), parts


def _repeated(program, times):
    """The program with what it takes in all parts of a batch, whose loop the compiler counts once; the optimizer, too."""
    if times == 1 or program.too_large:
        return program
    exchanges = (
        one._replace(count=times * one.count, bytes=times * one.bytes, sent=times * one.sent)
        for one in program.collectives
    )
    by_times = {
        name: getattr(program, name) and times * getattr(program, name) for name in ("flops", "bytes", "by_formula")
    }
    return program._replace(**by_times, collectives=tuple(exchanges))


def sampling(config: Config, devices: tuple, dtype: str = "bfloat16") -> list[Program]:
    """One evaluation of the network for a batch of images, of both branches of guidance; and the decoder, if there is one.

    Args:
      config: config of a denoiser, with `sample.batch_size`; `train.parallel` says whether its parameters are split.
      devices: see `chips.devices`.
      dtype: of the parameters and of the computation.

    Raises:
      ValueError: a batch that does not divide by the devices.
    """
    sample, train = config.sample, config.train
    if config.role != "denoiser":
        raise ValueError(f"only denoisers are sampled from, and {config.name} is a {config.role}: plan its training")
    net = dataclasses.replace(with_kernel(config.net, devices, True), dtype=dtype)
    placement = parallel.Sharded(meshes.mesh(devices=devices), (meshes.Rule("", (meshes.Replicate(),)),))
    if train.parallel == "sharded":
        placement = parallel.of(train, devices)
    rows = placement.mesh.shape["data"] * placement.mesh.shape["fsdp"]
    if sample.batch_size % rows:
        raise ValueError(f"`sample.batch_size`={sample.batch_size} does not divide by the {rows} devices of examples")
    in_dtype = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), tree)
    branches = 1 if sample.guidance == 1 or net.guidance_dim else 2
    params = placement.placed_shapes(in_dtype(trained_shapes(config)))
    batched = lambda B: lambda x: jax.ShapeDtypeStruct((B, *np.shape(x)[1:]), jnp.asarray(x).dtype)
    arguments = placement.row_shapes(jax.tree.map(batched(branches * sample.batch_size), net.example(config.shape)))
    apply = jax.jit(lambda params, *args: net.make().apply({"params": params}, *args))
    lowered = placement.lower(apply, params, *arguments)
    name = f"network, {branches * sample.batch_size} at once"
    parts = {"parameters": _per_device(params, placement)}
    programs = [compiled(name, lowered, parts, len(devices))]
    if config.latent.codec:
        programs.append(_decoder(config, placement, dtype, devices))
    return programs


def evaluations(config: Config) -> int:
    """Evaluations of the network for an image, counted while the config's sampler draws one number of N(0, 1).

    An adaptive solver takes as many as its tolerance asks for there, which images may differ from.
    """
    schedule, sample, calls = config.diffusion.make_schedule(), config.sample, []

    def denoise(x, t, cond):
        jax.debug.callback(calls.append, t)
        alpha, sigma = schedule(t)
        return Prediction(alpha * x / (alpha**2 + sigma**2), sigma * x / (alpha**2 + sigma**2))

    levels = sample.spacing(schedule, sample.steps)
    x_T, one = schedule.std(levels[0]) * jnp.ones([1, 1]), Cond(label=jnp.zeros(1, jnp.int32))
    path = key_of(0), sample.sampler(), denoise, schedule, levels, x_T, Guided(one, one)
    jax.block_until_ready(samplers.sample(*path))
    jax.effects_barrier()
    return len(calls)


def _decoder(config, placement, dtype, devices):
    codec = models.load_config(config.latent.codec).net if _is_there(config.latent.codec) else AutoencoderConfig()
    if getattr(codec, "codebook_size", 0):
        raise ValueError("decoders with codebooks are not planned: choose a model with a KL autoencoder")
    codec = dataclasses.replace(with_kernel(codec, devices, False), dtype=dtype)
    module = codec.make()
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *codec.example(config.data.image_shape))["params"])
    params = placement.placed_shapes(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), shapes))
    z = placement.row_shapes(jax.ShapeDtypeStruct((config.sample.batch_size, *config.shape), jnp.float32))
    decode = jax.jit(lambda params, z: kl_codec(module, params).decode(z))
    name, parts = f"decoder, {config.sample.batch_size} images", {"parameters": _per_device(params, placement)}
    return compiled(name, placement.lower(decode, params, z), parts, len(devices))


def _is_there(name):
    try:
        models.load_config(name)
    except (ValueError, OSError):
        return False
    return True


def compiled(name: str, lowered, parts: dict, devices: int, keep: Callable | None = None) -> Program:
    """A lowered program, compiled, given with it to `keep`, and counted."""
    start = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Program(name, parts, seconds=time.perf_counter() - start, too_large=_blamed(str(error)))
    if keep:
        keep(program, lowered)
    seconds, memory, cost = time.perf_counter() - start, program.memory_analysis(), program.cost_analysis() or {}
    text = program.as_text()
    more_flops, more_bytes = hlo.flash_backward(text)
    known = cost.get("flops")
    return Program(
        name,
        parts,
        float(memory.argument_size_in_bytes),
        float(memory.output_size_in_bytes - memory.alias_size_in_bytes),
        float(memory.temp_size_in_bytes),
        None if known is None else known + more_flops,
        None if "bytes accessed" not in cost else cost["bytes accessed"] + more_bytes,
        tuple(hlo.collectives(text, devices)),
        more_flops,
        seconds,
    )


def _blamed(error):
    """The sentence with the sizes, and the largest arrays that it names."""
    said = re.search(r"Used [\d.]+\w of [\d.]+\w \w+", error)
    sizes = re.findall(r"Size: ([\d.]+\w+)", error)[:3]
    shapes = re.findall(r"Shape: (\S+?)\{", error)[:3]
    lines = [said[0] if said else "out of memory"]
    return "; ".join([*lines, *(f"{size} of {shape}" for size, shape in zip(sizes, shapes))])


def with_kernel(net, devices: tuple, on_mesh: bool):
    """A network with the attention that "auto" would choose there: what is attached here does not count.

    Args:
      net: its specification.
      devices: devices to compile for.
      on_mesh: whether it runs where jax knows the mesh, as in training, without which a kernel cannot be split.
    """
    if getattr(net, "attention_kernel", None) != "auto" or devices[0].platform != "tpu":
        return net
    return dataclasses.replace(net, attention_kernel="flash" if on_mesh or len(devices) == 1 else "plain")


def _frozen(config, base):
    """Frozen models, as far as they are a part of the step: what they encode is encoded before."""
    if base:
        return open_models(config, source_like(config), None, base)
    if config.role == "clip":
        length = config.net.text.length
        return FrozenModels(tokenizer=lambda texts: np.zeros((len(texts), length), np.int32))
    if config.latent.text_encoder:
        return FrozenModels(empty_text=np.zeros((config.net.context_length, config.net.context_dim), np.float32))
    return FrozenModels()


def source_like(config: Config, frozen: FrozenModels = FrozenModels()) -> Source:
    """Examples of the config's shapes, all zeros; contexts are like that of the empty text, where there is one."""
    shape, extra = config.data.image_shape, {}
    example = {"image": np.zeros(shape, np.uint8), "label": 0}
    if config.latent.codec:
        example["image"] = np.zeros(config.shape, np.float16)
    if config.latent.text_encoder:
        tokens = config.encodes_texts
        size = (config.net.context_length,) if tokens else (config.net.context_length, config.net.context_dim)
        size = size if frozen.empty_text is None else frozen.empty_text.shape
        example["context"] = np.zeros(size, np.int32 if tokens else np.float16)
    if config.latent.second_text_encoder:
        example["vector"] = np.zeros(config.net.vector_dim, np.float16)
    if config.adapt.kind == "controlnet":
        extra["control"] = np.zeros(shape, np.uint8)
    if config.adapt.kind != "none" and getattr(config.adapt, "prior", None) and config.adapt.prior.wanted:
        extra["prior"] = np.bool_(False)
    return Source(
        lambda i: dict(example, caption="") | extra,
        size=1024,
        image_shape=example["image"].shape,
        classes=config.data.classes or tuple(map(str, range(config.net.classes or 0))),
        caption=lambda i: "",
        hard_negative=lambda example, rng: "",
        extra_arrays=tuple(extra),
    )


def batch_shapes(config: Config, frozen: FrozenModels):
    """Shapes of the batches of a call, [K, B, ...] of K steps, as the data pipeline makes them."""
    few = jax.device_count()
    small = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch_size=few, accumulate=1, parallel="pmap", mesh="", rules=()),
    )
    batch, _ = next(setup.batches(small, source_like(config, frozen), 0, frozen))  # [D, K, few / D, ...]
    B = config.train.batch_size
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[1], B, *x.shape[3:]), x.dtype), batch)


def _per_device(shapes, placement):
    """Bytes of arrays on one device."""
    if isinstance(placement, parallel.Pmap):
        return float(sum(x.size // x.shape[0] * x.dtype.itemsize for x in jax.tree.leaves(shapes)))
    parts = lambda x: x.sharding.shard_shape(x.shape)
    return float(sum(np.prod(parts(x), dtype=np.int64) * x.dtype.itemsize for x in jax.tree.leaves(shapes)))
