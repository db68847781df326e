"""Makes of the Inception network that published FIDs are measured with a file that jaxdiff reads.

    curl -LO https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth
    python benchmarks/convert_inception.py pt_inception-2015-12-05-6726825d.pth inception.safetensors

Needs the extra `peers`, for PyTorch. Names change only in their separators and in the words at their ends; kernels change
their order of axes from PyTorch's to flax's.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jaxdiff.nets import inception

WORDS = {
    "conv.weight": "conv/kernel",
    "bn.weight": "bn/scale",
    "bn.bias": "bn/bias",
    "bn.running_mean": "bn/mean",
    "bn.running_var": "bn/var",
    "fc.weight": "fc/kernel",
    "fc.bias": "fc/bias",
}


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("published", type=Path)
    parser.add_argument("result", type=Path)
    args = parser.parse_args()
    if args.result.exists():
        raise SystemExit(f"{args.result} is there already: choose another name")
    state = torch.load(args.published, map_location="cpu", weights_only=True)
    params = converted({name: tensor.numpy() for name, tensor in state.items()})
    wrong = inception.differences({name: tensor.shape for name, tensor in params.items()})
    if wrong:
        raise SystemExit(f"{args.published} is not the Inception network of FID: {wrong}")
    save_file(params, args.result)
    print(f"{args.result}: {len(params)} tensors, {sum(x.size for x in params.values()):,} numbers")


def converted(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under flax's names and in its order of axes; a name that is not known stays, for the check to find it."""
    params = {}
    for name, tensor in state.items():
        module, _, end = name.rpartition(".")
        if end == "num_batches_tracked":  # counts training steps
            continue
        before, _, last = module.rpartition(".")
        end = WORDS.get(f"{last}.{end}", f"{last}.{end}")
        order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim, range(tensor.ndim))
        tensor = np.ascontiguousarray(tensor.transpose(order), np.float32)
        params["/".join([*filter(None, before.split(".")), end])] = tensor
    return params


if __name__ == "__main__":
    main()
