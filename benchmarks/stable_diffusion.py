"""Stable Diffusion 1.5 of full size with random weights beside diffusers: time and peak memory on a CPU. Needs `peers`.

    python benchmarks/stable_diffusion.py unet [--folder /tmp/sd15] [--rounds 2]
    python benchmarks/stable_diffusion.py pipeline [--steps 20]

`unet` is one call of the U-Net at batch 2, 64x64 latents and 77 tokens in float32; `pipeline` an image of 512x512 with
guidance, from the command to the file. The folder is written if it is not there, see benchmarks/pretrained.py. Each
measurement is a process of its own, the two kinds in turn, and its peak is that of the whole process.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import pretrained

UNET = {
    "jaxdiff": """
import resource, sys, time
import jax, jaxdiff, numpy as np
from jaxdiff import xla
xla.tune_cpu()
from jaxdiff.model.interop import folder
path = sys.argv[1]
config = folder.read_config(path)
model = folder._model(folder.epath.Path(path) / "unet", config, "float32", jax.devices()[0])
rng = np.random.default_rng(0)
x, context = (rng.standard_normal(shape, np.float32) for shape in ((2, 64, 64, 4), (2, 77, 768)))
arguments = model.weights, x, 500, jaxdiff.Cond(context=context)
start = time.perf_counter()
apply = jax.jit(model.apply).lower(*arguments).compile()
compiled, times = time.perf_counter() - start, []
for _ in range(3):
    start = time.perf_counter()
    jax.block_until_ready(apply(*arguments))
    times.append(time.perf_counter() - start)
print(min(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, compiled)
""",
    "diffusers": """
import resource, sys, time
import numpy as np, torch
from diffusers import UNet2DConditionModel
torch.set_num_threads(2)
model = UNet2DConditionModel.from_pretrained(sys.argv[1] + "/unet", torch_dtype=torch.float32).eval()
rng = np.random.default_rng(0)
x, context = (torch.tensor(rng.standard_normal(shape, np.float32)) for shape in ((2, 4, 64, 64), (2, 77, 768)))
times = []
with torch.inference_mode():
    for _ in range(3):
        start = time.perf_counter()
        model(x, 499, encoder_hidden_states=context)
        times.append(time.perf_counter() - start)
print(min(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 0.0)
""",
}
PIPELINE = {
    "jaxdiff": """
import resource, sys, tempfile, time
start = time.perf_counter()
from jaxdiff import cli
cli.main(["sample", sys.argv[1], "a red seven on blue", "--steps", sys.argv[2], "--out", tempfile.mkdtemp() + "/ours.png"])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 0.0)
""",
    "diffusers": """
import resource, sys, tempfile, time
start = time.perf_counter()
import torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(2)
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32, safety_checker=None)
pipe("a red seven on blue", num_inference_steps=int(sys.argv[2])).images[0].save(tempfile.mkdtemp() + "/theirs.png")
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 0.0)
""",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("unet", "pipeline"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/sd15"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    if not args.folder.exists():
        pretrained.write(args.folder)
    code = UNET if args.what == "unet" else PIPELINE
    measured = {kind: [] for kind in code}
    for _ in range(args.rounds):
        for kind, rows in measured.items():
            words = [sys.executable, "-c", code[kind], str(args.folder), str(args.steps)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            rows.append([float(x) for x in done.stdout.splitlines()[-1].split()])
            print(f"{kind:10} {rows[-1][0]:7.2f} s   peak {rows[-1][1]:5.2f} GB   compiled in {rows[-1][2]:.1f} s")
    ratio = [ours[0] / theirs[0] for ours, theirs in zip(measured["jaxdiff"], measured["diffusers"])]
    print(f"jaxdiff / diffusers: {statistics.median(ratio):.2f}")


if __name__ == "__main__":
    main()
