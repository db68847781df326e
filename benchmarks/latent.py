"""Text to image in latent space: what its parts do on data that they have not seen, and what latents save.

    python benchmarks/latent.py            # prints the tables; about a quarter of an hour on two cores
    python benchmarks/latent.py --write    # writes them into docs/latent.md, with their pictures
    python benchmarks/latent.py --only cost

Everything is of the models that ship. Digits are read by digits_judge, which learned from other digits; colours, sizes and
places from pixels (`jaxdiff.eval.shown`).
"""

import argparse
import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import UNet, UNetConfig, data, denoiser, network, pretrained, samplers, schedules, timesteps
from jaxdiff.config import load as load_config
from jaxdiff.data import captioned
from jaxdiff.eval import draw, images, neighbors, shown, zero_shot
from jaxdiff.nets.vq_vae import perplexity, quantize
from jaxdiff.objectives import to_unit_range
from jaxdiff.objectives.autoencoder import psnr
from jaxdiff.types import Cond

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
    """PSNR on held-out images, beside how much smaller the latents are."""
    _, x = examples("test")
    lines = ["| | numbers per image | fewer | PSNR, mean | worst 5% | codebook |", "|---|---|---|---|---|---|"]
    rows = []
    for name in ("captioned_vae", "captioned_vqvae"):
        model = pretrained.load(name)
        encode, decode = jax.jit(model.codec.encode), jax.jit(model.codec.decode)
        z = np.concatenate([encode(to_unit_range(x[i : i + SIZE])) for i in range(0, len(x), SIZE)])
        again = np.concatenate([decode(z[i : i + SIZE]) for i in range(0, len(z), SIZE)])
        quality = np.asarray(psnr(to_unit_range(x), jnp.asarray(again)))
        numbers, words = z[0].size, model.config.reconstruction.words
        said, fewer = "none", f"{x[0].size / numbers:.0f} times"
        if words:
            index = np.asarray(quantize(jnp.asarray(model.params["quantize"]["embedding"]), jnp.asarray(z))[1])
            count = np.bincount(index.ravel(), minlength=words)
            used, spread = (count > 0).mean(), float(perplexity(jnp.asarray(count, jnp.float32)))
            said = f"{used:.1%} of {words} words used, perplexity {spread:.0f}"
            numbers, fewer = index[0].size, f"{x[0].size * 8 / (index[0].size * np.log2(words)):.0f} times fewer bits"
        at = f"{numbers} {'words' if words else 'numbers'}"
        lines.append(f"| `{name}` | {at} | {fewer} | {quality.mean():.2f} dB | {np.percentile(quality, 5):.2f} dB | {said} |")
        rows.append(images.to_uint8(again[:10]))
        print(lines[-1], f"std of the latents {z.std():.4f}", flush=True)
    if args.write:
        images.save_grid(PICTURES / "latent_autoencoders.png", np.concatenate([x[:10], *rows]), 10)
    return "\n".join(lines) + "\n"


def descriptions(name):
    """For each class of a kind, captions of all sorts that say it."""
    rng = np.random.default_rng(0)
    found = []
    for n in range(len(captioned.NAMES[name])):
        drawn = [{of: int(rng.integers(len(names))) for of, names in captioned.NAMES.items()} | {name: n} for _ in range(200)]
        # A template that does not say it says nothing of it.
        texts = [captioned.caption(rng, **one) for one in drawn if one["colour"] != one["background"]]
        word = captioned.NAMES[name][n]
        said = [text for text in texts if name not in ("size", "place") or word in text]
        found.append(said)
    return found


def clip(args):
    """What the small CLIP finds out of held-out images by descriptions alone."""
    model, (held, x) = pretrained.load("captioned_clip"), examples("test")
    net = model.config.make_net()
    found = zero_shot.embed_images(net, model.params, x)
    lines = ["| | " + " | ".join(captioned.NAMES) + " |", "|---|" + "---|" * len(captioned.NAMES)]
    hits = []
    for name in captioned.NAMES:
        classes = zero_shot.embed_classes(net, model.params, model.tokenizer, descriptions(name))
        hits.append(np.mean(zero_shot.classify(found, classes) == [example[name] for example in held]))
    lines.append("| found | " + " | ".join(f"{hit:.1%}" for hit in hits) + " |")
    lines.append("| by chance | " + " | ".join(f"{1 / len(names):.0%}" for names in captioned.NAMES.values()) + " |")
    return "\n".join(lines) + "\n"


def judge():
    """uint8 digits [N, 28, 28, 1] -> classes [N], by digits_judge."""
    model = pretrained.load("digits_judge")
    read = jax.jit(lambda x: model.apply(model.params, to_unit_range(x), 0)[0].argmax(-1))
    return lambda digits: np.asarray(read(digits))


def drawn(model, prompts, scale, seed=1, **how):
    """One image of each prompt."""
    sample = dataclasses.replace(
        model.config.sample, prompts=tuple(prompts), guidance=scale, num=len(prompts), batch_size=SIZE, seed=seed, **how
    )
    return draw.draw(dataclasses.replace(model.config, sample=sample), model.params, ends=model.ends)


def text_to_image(args):
    """Whether images show what was asked for, of combinations that were never trained on."""
    model, reads, (asked, real) = pretrained.load(args.model), judge(), examples("unseen", 500)
    _, train = examples("train")
    prompts, wanted = [one["caption"] for one in asked], [shown.asked_for(one) for one in asked]
    lines = [
        "| guidance | digit | colours | size | place | all of it | nearest training image: 5%, median |",
        "|---|---|---|---|---|---|---|",
    ]

    def line(name, x):
        names, said = ("label", "colours", "size", "place", "all"), shown.right(x, wanted, reads)
        five, half = np.percentile(neighbors.nearest(x / 255, train / 255), [5, 50])
        lines.append(f"| {name} | " + " | ".join(f"{said[n]:.1%}" for n in names) + f" | {five:.2f}, {half:.2f} |")
        print(lines[-1], flush=True)

    line("*real images*", real)
    for scale in SCALES:
        x = drawn(model, prompts, scale)
        line(f"{scale:g}", x)
        if args.write and scale == model.config.sample.guidance:
            images.save_grid(PICTURES / "latent_unseen.png", x[:60], 12)
    return "\n".join(lines) + "\n"


def cost(args):
    raise NotImplementedError


SECTIONS = {"autoencoders": autoencoders, "clip": clip, "drawn": text_to_image, "cost": cost}
