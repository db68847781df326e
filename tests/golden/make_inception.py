"""Writes inception.npz: what pytorch-fid's InceptionV3 says of two small images, with random weights.

Needs PyTorch, pytorch-fid, and the build of torchvision for just that PyTorch: another, such as one for CUDA beside a
PyTorch for the CPU, fails when it is imported. Both in one call, from one index:

    pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
    pip install pytorch-fid
    python tests/golden/make_inception.py

Weights are drawn from their names, so that the test draws the same and they need not be stored. Images are drawn from seeds
for the same reason.
"""

import zlib
from pathlib import Path

import numpy as np


def weight(name, shape):
    """A tensor of the published file, float32: kernels keep the scale of what they read, norms are of every kind."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) > 1:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    low, high = (0.5, 1.5) if name.endswith(("bn.weight", "running_var")) else (-0.3, 0.3)
    return rng.uniform(low, high, shape).astype(np.float32)


def images(*shape):
    """uint8 images in which neighbours are alike, as in photographs."""
    rng = np.random.default_rng(sum(shape))
    coarse = rng.integers(0, 256, (shape[0], 4, 4, shape[3]))
    rows, columns = (np.arange(size) * 4 // size for size in shape[1:3])
    return np.clip(coarse[:, rows][:, :, columns] + rng.integers(-40, 41, shape), 0, 255).astype(np.uint8)


def main():
    import torch
    import torchvision
    from pytorch_fid import inception

    shapes = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in shapes.items()}
    state = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}
    inception.load_state_dict_from_url = lambda *args, **kwargs: state
    net = inception.InceptionV3().eval()
    small, large = (
        torch.from_numpy(x).permute(0, 3, 1, 2) / 255 for x in (images(2, 24, 33, 3), images(1, 500, 320, 3))
    )
    with torch.inference_mode():
        features = net(small)[0].flatten(1)
        logits = features @ state["fc.weight"].T + state["fc.bias"]
        resized = torch.nn.functional.interpolate(large, size=(299, 299), mode="bilinear", align_corners=False)
    seen = (2 * resized - 1).permute(0, 2, 3, 1)[:, ::13, ::7].numpy()
    versions = np.array([f"torch {torch.__version__}", f"torchvision {torchvision.__version__}", "pytorch-fid 0.3.0"])
    path = Path(__file__).with_name("inception.npz")
    arrays = {"features": features.numpy(), "logits": logits.numpy(), "seen": seen, "versions": versions}
    names = np.array([f"{name} {' '.join(map(str, shape))}" for name, shape in shapes.items()])
    np.savez_compressed(path, **arrays, names=names)


if __name__ == "__main__":
    main()
