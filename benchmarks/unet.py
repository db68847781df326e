"""Speed of the U-Net at DDPM's CIFAR-10 shape, beside PyTorch's, in one run.

    pip install -e ".[peers]" -c constraints.txt
    python benchmarks/unet.py

35,746,307 parameters, batch 4, float32, two threads. Measured in turns, so that a noisy machine is noisy for all alike:
the forward pass, and the training step (loss, gradients, Adam, averaged weights), for jaxdiff both alone and scanned, for
`diffusers.UNet2DModel` in PyTorch eager with contiguous and with channels-last memory. Medians; a ratio below 1 means that
jaxdiff is faster than the faster of the two. XLA is set as the command line sets it (`jaxdiff.xla`).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import UNet2DModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from jaxdiff import UNet, UNetConfig, network, objectives, schedules, xla
from jaxdiff.train import state
from jaxdiff.train.step import make_train_step, scanned

SCANNED_STEPS = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(2)
    xla.tune_cpu()  # as the command line does

    image = np.random.default_rng(0).standard_normal((args.batch, 32, 32, 3)).astype(np.float32)
    calls = jax_calls(image)
    others, flops = torch_calls(image)
    calls |= others
    for call, _ in calls.values():  # compile and warm up
        call()
        call()
    times = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, (call, steps) in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) / steps)
    report({name: float(np.median(seconds)) for name, seconds in times.items()}, flops)


def jax_calls(image):
    """Calls to time, with the steps in each."""
    B = len(image)
    net, optimizer = UNet(UNetConfig()), optax.adam(1e-4)
    apply = network(net)
    params = jax.jit(lambda key: net.init(key, image[:1], jnp.zeros(1))["params"])(jax.random.key(0))
    forward = jax.jit(lambda params, x, t: apply(params, x, t)[0])
    step = make_train_step(objectives.denoising(apply, schedules.linear()), optimizer)
    batch = {"image": image, "index": np.arange(B, dtype=np.uint32)}
    t, key = jnp.arange(1, B + 1), jax.random.key(1)

    def training(step, batch):
        """A call that carries its own state, donated from step to step."""
        run = jax.jit(step, donate_argnums=0)
        held = [state.init(jax.tree.map(jnp.copy, params), optimizer)]

        def call():
            held[0], _ = run(held[0], key, batch)
            jax.block_until_ready(held[0])

        return call

    several = jax.tree.map(lambda x: np.stack([x] * SCANNED_STEPS), batch)
    return {
        "jaxdiff forward": (lambda: forward(params, image, t).block_until_ready(), 1),
        "jaxdiff step": (training(step, batch), 1),
        "jaxdiff step, scanned": (training(scanned(step), several), SCANNED_STEPS),
    }


def torch_calls(image):
    """The same network and step in PyTorch, in two memory formats; and the FLOPs of a forward pass without shortcuts."""
    calls = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last)):
        net = UNet2DModel(
            sample_size=32,
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            attention_head_dim=None,
        ).to(memory_format=layout)
        assert sum(p.numel() for p in net.parameters()) == 35_746_307
        x = torch.tensor(image).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        t, eps, optimizer = torch.arange(len(image)), torch.randn_like(x), torch.optim.Adam(net.parameters(), 1e-4)
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9999))

        def forward(net=net, x=x, t=t):
            with torch.inference_mode():
                net(x, t)

        def step(net=net, x=x, t=t, eps=eps, optimizer=optimizer, average=average):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x, t).sample, eps).backward()
            optimizer.step()
            average.update_parameters(net)

        with FlopCounterMode(display=False) as counter:
            net(x, t)
        calls |= {f"torch {name} forward": (forward, 1), f"torch {name} step": (step, 1)}
    return calls, counter.get_total_flops()


def report(times, flops):
    peak = matmul_peak()
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s; forward pass {flops / 1e9:.1f} GFLOP, a step taken as 3 of them")
    for name, seconds in times.items():
        share = flops * (1 if name.endswith("forward") else 3) / seconds / peak
        print(f"{name:<28}{seconds * 1e3:8.1f} ms   {share:5.1%} of the peak")
    for kind in ("forward", "step"):
        fastest = min(seconds for name, seconds in times.items() if name.startswith("torch") and name.endswith(kind))
        for name in times:
            if name.startswith(f"jaxdiff {kind}"):
                print(f"{name} / fastest torch {kind}: {times[name] / fastest:.2f}")


def matmul_peak(n=2048):
    """FLOP/s of a large float32 product."""
    a = jnp.ones((n, n))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / np.median(seconds)


if __name__ == "__main__":
    main()
