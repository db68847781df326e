"""Text to image in latent space: what its parts do on data that they have not seen, and what latents save.

    python benchmarks/latent.py            # prints the tables; about a quarter of an hour on two cores
    python benchmarks/latent.py --write    # writes them into docs/latent.md, with their pictures
    python benchmarks/latent.py --only cost
    python benchmarks/latent.py --only few --adapter runs/captioned_few_steps/adapter.safetensors
    python benchmarks/latent.py --only networks --runs runs/captioned_flow runs/captioned_dit

All but the runs of other networks, whose table is left out without them, is of what ships. Digits are read by
digits_judge, which learned from other digits; colours, sizes and places from pixels (`jaxdiff.eval.shown`).
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pages import run_sections

import jaxdiff
from jaxdiff import Cond, UNet, data, network, objectives, samplers, schedules
from jaxdiff.config import load as load_config
from jaxdiff.data.sources import captioned
from jaxdiff.eval import features, fid, measure, neighbors, shown, zero_shot
from jaxdiff.objectives import to_unit_range
from jaxdiff.pipeline import images

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "latent.md", ROOT / "docs" / "images"
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
SIZE = 100  # images at a time


def examples(split, num=None):
    """The first examples of a split, and their images."""
    source = data.load(f"captioned:{split}")
    found = [source[i] for i in range(num or len(source))]
    return found, np.stack([example["image"] for example in found])


def autoencoders(args):
    """Reconstruction of held-out images by autoencoders, and the compression of the latents."""
    _, x = examples("test")
    lines = ["| | numbers per image | fewer | PSNR, mean | worst 5% | codebook |", "|---|---|---|---|---|---|"]
    rows = []
    for name in ("captioned_vae", "captioned_vqvae"):
        model = jaxdiff.load(name)
        metrics = ",".join(measure.metrics_of(model.config))
        found = jaxdiff.evaluate(model, metrics=metrics, num=len(x), batch_size=SIZE)
        z = jaxdiff.encode(model, to_unit_range(x[:10]))
        rows.append(images.to_uint8(jaxdiff.decode(model, z)))
        numbers, words, said = z[0].size, model.config.net.codebook_size, "none"
        size, fewer = f"{numbers} numbers", f"{x[0].size / numbers:.0f} times"
        if words:
            numbers = z[0, ..., 0].size
            size, fewer = f"{numbers} words", f"{x[0].size * 8 / (numbers * np.log2(words)):.0f} times fewer bits"
            book = found["codebook"]
            said = f"{book['used']:.1%} of {words} words used, perplexity {book['perplexity']:.0f}"
        quality = [f"{found['psnr'][what]:.2f} dB" for what in ("mean", "percentile_5")]
        lines.append(f"| `{name}` | " + " | ".join([size, fewer, *quality, said]) + " |")
        print(lines[-1], f"the latents are {found['latents']['root_mean_square']:.4f} large", flush=True)
    if args.write:
        images.save_grid(PICTURES / "latent_autoencoders.png", np.concatenate([x[:10], *rows]), 10)
    return "\n".join(lines) + "\n"


def clip(args):
    """Zero-shot accuracy of the small CLIP on held-out images."""
    del args
    model = jaxdiff.load("captioned_clip")
    scale = float(np.exp(model.params["logit_scale"]))
    texts, said = captioned.descriptions()
    texts = zero_shot.embed_texts(model, texts, batch_size=420)
    lines = ["| | " + " | ".join(captioned.ATTRIBUTES) + " |", "|---|" + "---|" * len(captioned.ATTRIBUTES)]
    for split in ("test", "unseen"):
        held, x = examples(split)
        found = zero_shot.embed_images(model, x)
        hits = [
            np.mean(zero_shot.probabilities(found, texts, said[:, i], scale).argmax(1) == [one[name] for one in held])
            for i, name in enumerate(captioned.ATTRIBUTES)
        ]
        lines.append(f"| `captioned:{split}` | " + " | ".join(f"{hit:.1%}" for hit in hits) + " |")
    lines.append(
        "| by chance | " + " | ".join(f"{1 / len(names):.0%}" for names in captioned.ATTRIBUTES.values()) + " |"
    )
    return "\n".join(lines) + "\n"


class Unseen(NamedTuple):
    """Combinations that were never trained on, and what judges images of them.

    Attributes:
      prompts: captions.
      wanted: what each of them asks for, see `shown.asked_for`.
      real: images of them.
      train: images that were trained on.
      judge: reads digits.
    """

    prompts: list
    wanted: list
    real: np.ndarray
    train: np.ndarray
    judge: features.Features

    @classmethod
    def load(cls, num=500):
        """The first of them."""
        (asked, real), (_, train), judge = examples("unseen", num), examples("train"), jaxdiff.load("digits_judge")
        judge = features.classifier_features(judge.config.net, judge.params, "digits_judge")
        return cls([one["caption"] for one in asked], [shown.asked_for(one) for one in asked], real, train, judge)

    def cells(self, x):
        """A line of a table for images of the prompts."""
        said = shown.right(x, self.wanted, self.judge)
        five, half = np.percentile(neighbors.nearest(x / 255, self.train / 255), [5, 50])
        return (
            " | ".join(f"{said[n]:.1%}" for n in ("label", "colours", "size", "place", "all"))
            + f" | {five:.2f}, {half:.2f}"
        )


JUDGED = "digit | colours | size | place | all of it | nearest training image: 5%, median |"


def text_to_image(args):
    """Whether images show what was asked for, of combinations that were never trained on."""
    model, unseen = jaxdiff.load(args.model), Unseen.load()
    lines = [
        f"| guidance | {JUDGED}",
        "|---|---|---|---|---|---|---|",
        f"| *real images* | {unseen.cells(unseen.real)} |",
    ]
    for scale in args.scales:
        x = jaxdiff.generate(model, unseen.prompts, guidance=scale, seed=1, batch_size=SIZE)
        lines.append(f"| {scale:g} | {unseen.cells(x)} |")
        print(lines[-1], flush=True)
        if args.write and scale == model.config.sample.guidance:
            images.save_grid(PICTURES / "latent_unseen.png", x[:60], 12)
    return "\n".join(lines) + "\n"


def few_steps(args):
    """The same of the LoRA that was distilled to need few steps, and the time of an image."""
    model, unseen, one = jaxdiff.load(args.model), Unseen.load(), {"sampler": "lcm", "guidance": 1.0}
    fast = jaxdiff.with_adapters(model, args.adapter)
    lines = [f"| | ms an image | {JUDGED}", "|---|---|---|---|---|---|---|---|"]
    rows = {"`captioned`, 50 steps": (model, {}), "`captioned`, 4 steps": (model, {"steps": 4})}
    rows |= {f"`few_steps`, {n} step{'s' * (n > 1)}": (fast, {"steps": n} | one) for n in (8, 4, 2, 1)}
    for name, (of, options) in rows.items():
        jaxdiff.generate(of, unseen.prompts[:SIZE], num=SIZE, batch_size=SIZE, **options)  # compiles
        start = time.perf_counter()
        x = jaxdiff.generate(of, unseen.prompts, seed=1, batch_size=SIZE, **options)
        lines.append(f"| {name} | {1e3 * (time.perf_counter() - start) / len(x):.1f} | {unseen.cells(x)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


class Cost(NamedTuple):
    """Of one image: FLOPs and seconds of a call and of a training step, and the bytes that the latter works in."""

    flops: float
    seconds: float
    train_flops: float
    train_seconds: float
    train_bytes: float


def cost_of(net, shape, batch, runs=5):
    """Cost of a network on images or latents of that shape."""
    apply, schedule = network(net.make()), schedules.cosine(1000)
    loss_fn = objectives.denoising(apply, schedule, "v")
    cond = Cond(context=np.zeros([batch, net.context_length, net.context_dim], np.float32))
    x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    one = x[:1], np.zeros(1), jax.tree.map(lambda leaf: leaf[:1], cond)
    params = jax.jit(net.make().init)(jax.random.key(0), *one)["params"]
    keys = samplers.keys_for(jax.random.key(1), batch)
    call = jax.jit(lambda params: apply(params, x, 500, cond)[0]).lower(params).compile()
    gradient = jax.grad(lambda params: loss_fn(params, (), keys, {"image": x, "cond": cond})[0].mean())
    train = jax.jit(gradient).lower(params).compile()
    seconds = {call: [], train: []}
    for run in range(runs + 1):
        for program, found in seconds.items():
            start = time.perf_counter()
            jax.block_until_ready(program(params))
            found += [time.perf_counter() - start] if run else []  # the first is warming up
    flops = [program.cost_analysis()["flops"] / batch for program in (call, train)]
    middle = [float(np.median(found)) / batch for found in seconds.values()]
    return Cost(flops[0], middle[0], flops[1], middle[1], train.memory_analysis().temp_size_in_bytes / batch)


def cost_of_decoding(shape, batch, runs=5):
    """GFLOPs and milliseconds that an image takes to be decoded."""
    z = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    codec, found = jaxdiff.load("captioned").codec, []
    decode = jax.jit(lambda codec, z: codec.decode(z)).lower(codec, z).compile()
    for _ in range(runs + 1):
        start = time.perf_counter()
        jax.block_until_ready(decode(codec, z))
        found.append(time.perf_counter() - start)
    return decode.cost_analysis()["flops"] / batch / 1e9, float(np.median(found[1:])) / batch * 1e3


def flops_of(net, shape):
    """FLOPs of one call of a network that is too large to be run here, as its program is written."""
    cond = Cond(context=jax.ShapeDtypeStruct((1, net.context_length, net.context_dim), jnp.float32))
    x, t = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(UNet(net).init, jax.random.key(0), x, t, cond)["params"]
    return jax.jit(network(UNet(net))).lower(params, x, t, cond).cost_analysis()["flops"]


def cost(args):
    """The same network on latents and on the pixels that they stand for."""
    del args
    config = load_config("captioned_latent")
    nets = {
        "latents": (config.net, config.shape),
        "pixels": (dataclasses.replace(config.net, out_channels=3), config.data.image_shape),
    }
    found = {name: cost_of(*one, batch=16) for name, one in nets.items()}
    lines = [
        "| `captioned_latent`'s network on | GFLOP a call | ms a call | GFLOP a training step | ms a training step | MiB |",
        "|---|---|---|---|---|---|",
    ]
    rows = found | {"*pixels / latents*": Cost(*(b / a for a, b in zip(found["latents"], found["pixels"])))}
    for name, one in rows.items():
        scaled = one if "/" in name else Cost(*(x * by for x, by in zip(one, (1e-9, 1e3, 1e-9, 1e3, 2**-20))))
        at = f"{name} {'x'.join(map(str, nets[name][1]))}" if name in nets else name
        lines.append(f"| {at} | " + " | ".join(f"{x:.3g}" for x in scaled) + " |")
    large = load_config("stable_diffusion_1")
    net = dataclasses.replace(large.net, remat=False)
    latents, pixels = (
        flops_of(net, large.shape),
        flops_of(dataclasses.replace(net, out_channels=3), large.data.image_shape),
    )
    gflop, ms = cost_of_decoding(config.shape, batch=16)
    lines += [
        "",
        f"An image is decoded once, after the last of its steps: {gflop:.3g} GFLOP, {ms:.3g} ms.",
        "",
        f"Stable Diffusion 1's network: {latents / 1e12:.3g} TFLOP a call on latents 64x64x4, {pixels / 1e12:.3g} TFLOP on "
        f"the 512x512x3 pixels that they stand for: {pixels / latents:.0f} times as many.",
    ]
    return "\n".join(lines) + "\n"


def networks(args):
    """Networks and processes that were trained with the same data for as many steps, and what they cost."""
    unseen, judge = Unseen.load(), jaxdiff.load("captioned_judge")
    judge = features.classifier_features(judge.config.net, judge.params, "captioned_judge")
    real = fid.moments(judge.of(unseen.real)[0])
    lines = [
        f"| | M numbers | GFLOP a call | ms a training step | steps | FID | {JUDGED}",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (args.model, *args.runs):
        model = jaxdiff.load(name)
        spent = cost_of(model.config.net, model.shape, batch=64)
        x = jaxdiff.generate(model, unseen.prompts, seed=1, batch_size=SIZE)
        numbers = [
            f"{sum(leaf.size for leaf in jax.tree.leaves(model.params)) / 1e6:.2f}",
            f"{spent.flops / 1e9:.3f}",
            f"{64e3 * spent.train_seconds:.0f}",
            f"{model.config.train.steps}",
            f"{fid.frechet(fid.moments(judge.of(x)[0]), real):.2f}",
        ]
        lines.append(f"| `{model.config.name}` | {' | '.join(numbers)} | {unseen.cells(x)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


SECTIONS = {
    "autoencoders": autoencoders,
    "clip": clip,
    "drawn": text_to_image,
    "few": few_steps,
    "networks": networks,
    "cost": cost,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="captioned")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="of guidance")
    parser.add_argument("--adapter", default="few_steps", help="LoRA for few steps")
    parser.add_argument("--runs", nargs="+", default=(), help="runs of other networks")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="of the tables only this one")
    parser.add_argument("--write", action="store_true", help="write the tables and the pictures into docs/")
    args = parser.parse_args()
    if "networks" in (args.only or ()) and not args.runs:
        parser.error("--only networks needs --runs")
    wanted = {name: section for name, section in SECTIONS.items() if name != "networks" or args.runs}
    run_sections(wanted, args, PAGE, "latent.py")


if __name__ == "__main__":
    main()
