"""Loading of a full-size Stable Diffusion 1.5 with random weights in float16: time and memory beside a plain NumPy loop.

    python benchmarks/pretrained.py [--folder /tmp/sd15] [--rounds 3]

The folder (2.1 GB) is written if it is not there. Each load is a process of its own, the two kinds in turn; the files lie
in a cache. The NumPy loop reads each tensor, casts it to float32 and transposes it, and keeps it.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).parents[1] / "tests" / "golden" / "published_configs.json"
PIPELINE = Path(__file__).parents[1] / "tests" / "golden" / "pipelines" / "stable_diffusion_1"
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}

LOAD = """
import resource, sys, time
start = time.perf_counter()
if sys.argv[1] == "jaxdiff":
    import jax, jaxdiff
    from jaxdiff.model.interop import folder  # imports are not what is measured
    jax.devices()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    model = jaxdiff.load(sys.argv[2])
    arrays = jax.block_until_ready(jax.tree.leaves(model))
else:
    import numpy as np, pathlib, safetensors
    before, start, arrays = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), []
    for path in sorted(pathlib.Path(sys.argv[2]).glob("*/*.safetensors")):
        with safetensors.safe_open(path, "numpy") as file:
            for name in file.keys():
                x = file.get_tensor(name)
                axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(x.ndim)
                arrays.append(np.ascontiguousarray(x if axes is None else x.transpose(axes), np.float32))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(seconds, peak * 1024 / 1e9, sum(x.nbytes for x in arrays) / 1e9)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/sd15"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not args.folder.exists():
        write(args.folder)
    measured = {"numpy": [], "jaxdiff": []}
    for _ in range(args.rounds + 1):
        for kind, rows in measured.items():
            words = [sys.executable, "-c", LOAD, kind, str(args.folder)]
            rows.append(
                [float(x) for x in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()]
            )
    for kind, rows in measured.items():
        seconds, peak, size = (statistics.median(column) for column in zip(*rows[1:]))  # the first warms up
        print(f"{kind:8} {seconds:6.2f} s   peak {peak:5.2f} GB   arrays {size:5.2f} GB")
    ratio = [ours[0] / theirs[0] for ours, theirs in zip(measured["jaxdiff"][1:], measured["numpy"][1:])]
    print(f"jaxdiff / numpy: {statistics.median(ratio):.2f}")


def write(folder):
    """A folder as diffusers saves it, with random weights."""
    import shutil

    import jax
    import safetensors.numpy

    from jaxdiff.config import Config, Data
    from jaxdiff.model.interop import mapping, networks
    from jaxdiff.model.params import param_shapes

    jax.devices()
    published = json.loads(CONFIGS.read_text())
    noise = np.float16(0.02) * np.random.default_rng(0).standard_normal(2**26, np.float32).astype(np.float16)
    shutil.copytree(PIPELINE, folder)
    words = folder / "tokenizer" / "tokenizer_config.json"
    words.write_text(json.dumps(json.loads(words.read_text()) | {"model_max_length": 77}))
    for part, stem in PARTS.items():
        config = published[f"stable-diffusion-v1-5/{part}"]["config"]
        made = {"unet": networks.unet, "vae": networks.autoencoder}.get(part)
        net = made(config) if made else networks.text_transformer(config, 49407)
        shape = (64, 64, 4) if part == "unet" else (512, 512, 3)
        entries = mapping.entries(param_shapes(Config(net=net, data=Data(image_shape=shape))))
        tensors = {e.published: noise[: math.prod(e.shape)].reshape(e.shape) for e in entries}
        safetensors.numpy.save_file(tensors, folder / part / f"{stem}.safetensors")
        (folder / part / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
