"""Commands that benchmarks/checkouts.py runs with two checkouts, and the images that they read."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Task(NamedTuple):
    """Commands of `jaxdiff`, run one after the other in an empty folder.

    `sample`, `edit` and `eval` get an `--out` of their own (and `sample` an `--npz`): these files are compared. {inputs} is
    the folder of `write_inputs`. A command may read files that earlier commands of the same task have written.

    Attributes:
      name: also of its folder, so unique and without slashes.
      old: commands for the first checkout.
      new: commands for the second checkout where more than the flags in `RENAMED` differs; None for the same commands.
    """

    name: str
    old: str | tuple[str, ...]
    new: str | tuple[str, ...] | None = None


# Flags of the second checkout that had other names in the first.
RENAMED = {
    "--adam": "--inner-steps",
    "--rate": "--learning-rate",
    "--refine": "--inversion-rounds",
    "--cross": "--cross-attention",
    "--own": "--self-attention",
    "--words": "--alignment",
    "--weigh": "--reweight",
    "--hold": "--word-window",
    "--share": "--source-share",
    "--adapt.prior": "--adapt.prior.prompts",
}

TEN = "--num 10 --batch-size 10 --steps 10"
FOUR = "--num 4 --batch-size 4 --steps 10"
RED, GREEN = '"a red seven on a blue background"', '"a green seven on a blue background"'
PHOTO = f"captioned --image {{inputs}}/photo.png --source {RED} --prompt {GREEN} --steps 10"
DRAWN = f"captioned --method p2p --source {RED} --prompt {GREEN} --steps 10"
DIGIT = "digits --image {inputs}/digit.png --steps 10"
STAR = '"a red <star> on a blue background"'
EDGES = "--controlnet edges --control {inputs}/edges.png"
TINY = (
    "--run-dir run --train.steps 2 --train.batch-size 8 --train.steps-per-call 1 --train.log-every 1 --train.save-every 2 "
    "--train.sample-every 0 --optim.warmup 0"
)
LITTLE = f"{TINY} --sample.steps 2 --sample.num 8 --sample.batch-size 8"
ADAPTED = f"{LITTLE} --data.source folder:{{inputs}}/glyphs"

TASKS = [
    # Labels and guidance.
    Task("labels", f"sample digits --labels 0-9 {TEN}"),
    Task("one label", f"sample digits --label 7 {TEN}"),
    Task(
        "list of labels, last batch cut", "sample digits --labels 1,3,5-7 --num 15 --batch-size 10 --steps 10 --seed 5"
    ),
    Task("guidance", f"sample digits --labels 0-9 --guidance 3 {TEN}"),
    Task("guidance on an interval", f"sample digits --labels 0-9 --guidance 4 --interval 200 800 {TEN}"),
    Task("rescaled guidance", f"sample digits --labels 0-9 --guidance 6 --rescale 0.7 {TEN}"),
    Task("unconditional", f"sample digits --guidance 0 {TEN}"),
    Task("x0 not clipped", f"sample digits --no-clip {TEN}"),
    Task("classifier guidance", f"sample digits --labels 0-9 --guidance 4 --classifier digits_classifier {TEN}"),
    Task(
        "classifier guidance, interval and rescaled",
        f"sample digits --label 3 --guidance 4 --classifier digits_classifier --interval 100 900 --rescale 0.5 {TEN}",
    ),
    Task("outlined", f"sample outlined --labels 0-9 --guidance 2 {TEN}"),
    Task("animation", f"sample digits --labels 0-9 --animation animation.gif {TEN}"),
    # Prompts.
    Task("prompts", f'sample captioned "a red seven on blue" "a large green 3 on white, top left" {FOUR}'),
    Task("prompts of the config", f"sample captioned {FOUR}"),
    Task("prompt without guidance", f'sample captioned "a red seven on blue" --guidance 1 {FOUR}'),
    Task("negative prompt", f'sample captioned "a red seven" --negative "a blue background" --guidance 4 {FOUR}'),
    Task("prompt, interval", f'sample captioned "eight in white on black" --interval 300 900 {FOUR}'),
    Task("prompt, rescaled", f'sample captioned "eight in white on black" --guidance 7 --rescale 0.7 {FOUR}'),
    Task("prompt, unipc, karras", f'sample captioned "a red 7 on blue" --sampler unipc --spacing karras {FOUR}'),
    Task(
        "prompt, CFG++",
        f'sample captioned "a red 7 on blue" --sampler ddim_cfgpp --guidance 0.6 {FOUR}',
        f'sample captioned "a red 7 on blue" --sampler ddim_cfgpp --guidance 1 --scale 0.6 {FOUR}',
    ),
    # Samplers and spacings.
    Task("ddim, eta 1", f"sample digits --sampler ddim --eta 1 {TEN}"),
    Task("ddim, eta 0.5", f"sample digits --eta 0.5 --guidance 2 {TEN}"),
    Task("ddpm", f"sample digits --sampler ddpm {TEN}"),
    Task("ddpm, variance beta", f"sample digits --sampler ddpm --variance beta {TEN}"),
    Task("heun", f"sample digits --sampler heun {TEN}"),
    Task("heun, churn", f"sample digits --sampler heun --churn 5 {TEN}"),
    Task("dpmpp_2m", f"sample digits --sampler dpmpp_2m {TEN}"),
    Task(
        "dpmpp_2m_sde, exponential",
        f"sample digits --sampler dpmpp_2m_sde --spacing exponential {TEN}",
        f"sample digits --sampler dpmpp_2m --sde --spacing exponential {TEN}",
    ),
    Task("unipc, order 3", f"sample digits --sampler unipc --order 3 {TEN}"),
    Task("unipc, order 1", f"sample digits --sampler unipc --order 1 {TEN}"),
    Task("pndm, leading", f"sample digits --sampler pndm --spacing leading {TEN}"),
    Task("euler_ancestral, karras", f"sample digits --sampler euler_ancestral --spacing karras {TEN}"),
    Task("euler_maruyama", f"sample digits --sampler euler_maruyama {TEN}"),
    Task("reverse_diffusion", f"sample digits --sampler reverse_diffusion {TEN}"),
    Task("predictor_corrector", f"sample digits --sampler predictor_corrector --snr 0.1 {TEN}"),
    Task("probability_flow", "sample digits --sampler probability_flow --num 4 --batch-size 4 --steps 2"),
    Task("probability_flow_fixed", f"sample digits --sampler probability_flow_fixed --spacing linspace {TEN}"),
    Task("lcm", f"sample digits --sampler lcm {TEN}"),
    Task(
        "ddim_cfgpp",
        f"sample digits --labels 0-9 --sampler ddim_cfgpp --guidance 0.6 {TEN}",
        f"sample digits --labels 0-9 --sampler ddim_cfgpp --scale 0.6 {TEN}",
    ),
    Task("ddim, quadratic", f"sample digits --spacing quadratic {TEN}"),
    Task("dpmpp_2m, karras", f"sample digits --sampler dpmpp_2m --spacing karras --guidance 2 {TEN}"),
    # LoRA and ControlNet.
    Task("LoRA", f"sample captioned {STAR} --lora star {FOUR}"),
    Task("LoRA with weight", f"sample captioned {STAR} --lora star:0.6 {FOUR}"),
    Task(
        "two LoRAs",
        f'sample captioned {STAR} "a green <heart> on white" --lora star:0.8 --lora heart {FOUR}',
    ),
    Task("LoRA, negative prompt", f'sample captioned "a <house> on white" --negative red --lora house {FOUR}'),
    Task("ControlNet", f"sample captioned {RED} {EDGES} {FOUR}"),
    Task("ControlNet, scale", f"sample captioned {RED} {EDGES} --control-scale 0.5 --guidance 1 {FOUR}"),
    Task("ControlNet, guess", f'sample captioned "a digit" {EDGES} --guess --guidance 2 {FOUR}'),
    Task("ControlNet and LoRA", f"sample captioned {STAR} --lora star {EDGES} {FOUR}"),
    # Edits.
    Task("null-text", f"edit {PHOTO} --adam 3 --refine 1"),
    Task("null-text, guidance", f"edit {PHOTO} --adam 3 --rate 0.05 --refine 1 --guidance 5 --early 7"),
    Task("negative-prompt", f"edit {PHOTO} --method negative-prompt"),
    Task("direct, shares", f"edit {PHOTO} --method direct --cross 0.1 0.6 --own 0.5"),
    Task(
        "direct, from a saved inversion",
        (
            f"edit {PHOTO} --method direct --save-inversion kept.safetensors",
            'edit captioned --method direct --from-inversion kept.safetensors --prompt "a red two on white" --own 0.2',
        ),
    ),
    Task("direct, blend", f"edit {PHOTO} --method direct --blend seven"),
    Task("p2p", f"edit {DRAWN}"),
    Task("p2p, seed and guidance", f"edit {DRAWN} --seed 3 --guidance 4 --early 9"),
    Task(
        "p2p, refine",
        f'edit captioned --method p2p --source {RED} --prompt "a large red seven on a blue background" --words refine '
        "--steps 10",
    ),
    Task("p2p, blend", f"edit {DRAWN} --blend seven"),
    Task("p2p, weigh", f"edit {DRAWN} --weigh green=3"),
    Task("p2p, hold and share", f"edit {DRAWN} --hold green=0.4:1 --share seven=0.5"),
    Task("sdedit", f"edit captioned --image {{inputs}}/photo.png --method sdedit --prompt {GREEN} --steps 10"),
    Task(
        "sdedit, mask",
        f"edit captioned --image {{inputs}}/photo.png --mask {{inputs}}/photo_mask.png --method sdedit --strength 0.8 "
        f"--prompt {GREEN} --guidance 4 --early 6 --seed 2 --steps 10",
    ),
    Task("sdedit, label", f"edit {DIGIT} --method sdedit --prompt 3 --strength 0.7"),
    Task("sdedit, no prompt", f"edit {DIGIT} --method sdedit --strength 0.5"),
    Task(
        "inpaint",
        f"edit captioned --image {{inputs}}/photo.png --mask {{inputs}}/photo_mask.png --method inpaint --prompt {GREEN} "
        "--rounds 2 --steps 10",
    ),
    Task("inpaint, label", f"edit {DIGIT} --mask {{inputs}}/digit_mask.png --method inpaint --prompt 7"),
    Task("ddib, label", f"edit {DIGIT} --method ddib --source 7 --prompt 1"),
    Task("ddib, to outlined", f"edit {DIGIT} --method ddib --source 7 --prompt 7 --to outlined"),
    Task("null-text, label", f"edit {DIGIT} --source 7 --prompt 1 --adam 3"),
    Task("direct, label", f"edit {DIGIT} --source 7 --prompt 1 --method direct --refine 1"),
    # Fusion.
    Task(
        "fuse, average",
        (
            "fuse star heart --method average -o both.safetensors",
            f"sample captioned {STAR} --lora both.safetensors {FOUR}",
        ),
    ),
    Task(
        "fuse, gradient",
        (
            "fuse star heart --images 4 --levels 2 --steps 2 -o both.safetensors",
            f"sample captioned {STAR} --lora both.safetensors {FOUR}",
        ),
    ),
    # Evaluation.
    Task("eval digits", "eval digits --metrics fid,accuracy,nll --num 20 --batch-size 20 --steps 10 --sample.steps 5"),
    Task(
        "eval digits, other metrics",
        "eval digits --metrics kid,precision_recall,inception_score,nearest --num 20 --batch-size 20 --sample.steps 5 "
        "--sample.guidance 2 --sample.sampler dpmpp_2m",
    ),
    Task("eval digits, likelihood", "eval digits --metrics nll_ode --tolerance 1e-2 --num 4 --batch-size 4"),
    Task("eval classifier", "eval digits_classifier --num 100 --batch-size 50"),
    Task("eval judge", "eval digits_judge --num 100 --batch-size 50"),
    Task("eval autoencoder", "eval captioned_vae --metrics psnr,latents --num 20 --batch-size 10"),
    Task("eval VQ autoencoder", "eval captioned_vqvae --metrics psnr,codebook --num 20 --batch-size 10"),
    Task("eval CLIP", "eval captioned_clip --num 50 --batch-size 25"),
    # Training, two steps of it.
    Task(
        "train digits",
        (
            f"train digits {LITTLE} --net.channels 16 32 --net.head-dim 16 --net.groups 4",
            f"sample run {TEN} --sampler ddim",
        ),
    ),
    Task("train LoRA", (f"train captioned_lora {ADAPTED} --adapt.prior", f"sample run {FOUR}")),
    Task(
        "train ControlNet",
        (f"train captioned_controlnet {ADAPTED}", f"sample run --control {{inputs}}/edges.png {FOUR}"),
    ),
    Task(
        "train autoencoder", (f"train captioned_vae {TINY} --data.source folder:{{inputs}}/glyphs", "eval run --num 20")
    ),
]


def write_inputs(folder: Path) -> None:
    """Writes the images that tasks read: a seven of each data set, masks, edges, and a folder of captioned images."""
    from jaxdiff import data

    folder.mkdir(parents=True)
    digits, captioned = data.load("digits:test"), data.load("captioned:test")
    digit = next(one["image"] for one in map(digits.__getitem__, range(len(digits))) if one["label"] == 7)
    shown = [captioned[i] for i in range(len(captioned))]
    photo = next(one["image"] for one in shown if one["caption"] == RED.strip('"'))
    images = {"digit": digit[..., 0], "photo": photo, "edges": edges(photo)}
    for name, side in (("digit_mask", 28), ("photo_mask", 32)):
        images[name] = np.zeros([side, side], np.uint8)
        images[name][side // 4 : 3 * side // 4, side // 2 :] = 255
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "glyphs").mkdir()
    lines = []
    for i, one in enumerate([one for one in shown if " 7 " in one["caption"] or " seven" in one["caption"]][:20]):
        Image.fromarray(one["image"]).save(folder / "glyphs" / f"{i}.png")
        caption = one["caption"].replace(" 7", " <star>").replace(" seven", " <star>")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}) + "\n")
    (folder / "glyphs" / "metadata.jsonl").write_text("".join(lines))


def edges(image: np.ndarray) -> np.ndarray:
    """Length of the gradient of an image, uint8 [H, W, 3] -> uint8 [H, W, 3], the steepest being white."""
    steep = np.sqrt(np.square(np.gradient(image.astype(np.float64), axis=(0, 1))).sum((0, -1)))
    return np.repeat(np.round(255 * steep / steep.max()).astype(np.uint8)[..., None], 3, -1)
