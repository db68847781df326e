"""Stable Diffusion 1's U-Net of full size on a GPU, in bfloat16, beside diffusers with torch.compile, in one run.

    pip install -e ".[cuda]" torch diffusers transformers
    python benchmarks/gpu.py                    # forward, training step, 50 steps of sampling; batch 8, 64x64 latents
    python benchmarks/gpu.py --tiny --rounds 1  # a small network of the same kind, on any device: tries the script itself

Random weights, 77 tokens. The training step is loss, gradients, Adam and averaged weights; sampling is DDIM with
guidance, both branches in one batch. Measured in turns, so that a noisy machine is noisy for both alike; medians. FLOPs
are jax's count of its own program, which leaves cuDNN's attention out, for both; shares are of what a large product in
bfloat16 reaches here. jaxdiff takes half of the memory at most, so that torch has the other.
"""

import argparse
import dataclasses
import os
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import jaxdiff
from jaxdiff import Cond, Guided, config, objectives, schedules, timesteps
from jaxdiff.train import speed, state
from jaxdiff.train.step import make_train_step

GUIDANCE = 7.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    size, width = (16, 32) if args.tiny else (64, 320)
    shape = {"x": (args.batch, size, size, 4), "context": (args.batch, 77, 96 if args.tiny else 768)}
    values = {name: np.random.default_rng(0).standard_normal(one).astype(np.float32) for name, one in shape.items()}
    ours, flops = jax_calls(values, width, args.steps)
    calls = {"jaxdiff": ours, "diffusers": torch_calls(values, width, args.steps)}
    for kind in calls.values():  # compile and warm up
        for call in kind.values():
            call()
            call()
    times = {(kind, what): [] for kind in calls for what in ours}
    for _ in range(args.rounds):
        for kind, what in times:
            start = time.perf_counter()
            calls[kind][what]()
            times[kind, what].append(time.perf_counter() - start)
    report({key: float(np.median(seconds)) for key, seconds in times.items()}, flops)


def jax_calls(values, width, steps):
    """Calls to time, by what they do, and their FLOPs."""
    net = config.load("stable_diffusion_1").net
    net = dataclasses.replace(net, remat=False, **({"channels": (32, 64), "attention": (0, 1)} if width == 32 else {}))
    net = dataclasses.replace(net, context_dim=values["context"].shape[-1], groups=min(32, width))
    apply, schedule = jaxdiff.network(net.make()), schedules.scaled_linear()
    params = jax.jit(lambda key: net.make().init(key, *net.example(values["x"].shape[1:]))["params"])(jax.random.key(0))
    x, context = (jnp.asarray(values[name]) for name in ("x", "context"))
    t = jnp.full(len(x), 500)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    forward = jax.jit(lambda params, x, context: apply(params, x, t, Cond(context=context))[0])
    optimizer = optax.adam(1e-4)
    train = jax.jit(make_train_step(objectives.denoising(apply, schedule), optimizer), donate_argnums=0)
    batch = {"image": x, "index": np.arange(len(x), dtype=np.uint32), "cond": Cond(context=context)}
    held = [state.init(jax.tree.map(jnp.copy, params), optimizer)]
    key, cond = jax.random.key(1), Guided(Cond(context=context), Cond(context=jnp.zeros_like(context)))
    denoise = jaxdiff.guidance.cfg(jaxdiff.denoiser(apply, low, schedule), GUIDANCE)
    levels = timesteps.grid(1000, steps, "leading", offset=1, end=1)

    def step():
        held[0], _ = train(held[0], key, batch)
        jax.block_until_ready(held[0])

    flops = {
        "forward": speed.flops(forward.lower(low, x, context)),
        "step": speed.flops(train.lower(held[0], key, batch)),
    }
    flops["sampling"] = flops["forward"] and 2 * steps * flops["forward"]
    sample = lambda: jaxdiff.sample(None, jaxdiff.ddim(), denoise, schedule, levels, x, cond)[0].block_until_ready()
    return {"forward": lambda: forward(low, x, context).block_until_ready(), "step": step, "sampling": sample}, flops


def torch_calls(values, width, steps):
    """The same in PyTorch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = {"block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D",) * 2} if width == 32 else {}
    small |= {"up_block_types": ("CrossAttnUpBlock2D",) * 2} if small else {}
    net = UNet2DConditionModel(sample_size=64, cross_attention_dim=values["context"].shape[-1], **small).to(device)
    net = net.to(memory_format=torch.channels_last)
    x = torch.tensor(values["x"], device=device).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    context = torch.tensor(values["context"], device=device)
    low = UNet2DConditionModel.from_config(net.config).to(device, torch.bfloat16, memory_format=torch.channels_last)
    compiled = torch.compile if device == "cuda" else lambda net: net  # on a CPU it takes minutes
    low, trained = compiled(low.eval()), compiled(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4, fused=device == "cuda")
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9999))
    both = torch.cat([torch.zeros_like(context), context]).bfloat16()
    scheduler = DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def forward():
        with torch.inference_mode():
            low(x.bfloat16(), 499, encoder_hidden_states=context.bfloat16())
        wait()

    def step():
        optimizer.zero_grad()
        eps, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),), device=device)
        with torch.autocast(device, torch.bfloat16):
            found = trained(scheduler.add_noise(x, eps, t), t, encoder_hidden_states=context).sample
        torch.nn.functional.mse_loss(found.float(), eps).backward()
        optimizer.step()
        average.update_parameters(net)
        wait()

    def sample():
        scheduler.set_timesteps(steps)
        at = x
        with torch.inference_mode():
            for t in scheduler.timesteps:
                without, told = (
                    low(torch.cat([at, at]).bfloat16(), t, encoder_hidden_states=both).sample.float().chunk(2)
                )
                at = scheduler.step(without + GUIDANCE * (told - without), t, at).prev_sample
        wait()

    return {"forward": forward, "step": step, "sampling": sample}


def report(times, flops):
    peak = matmul_peak()
    print(f"{jax.devices()[0].device_kind}: a product in bfloat16 reaches {peak / 1e12:.3g} TFLOP/s")
    for (kind, what), seconds in times.items():
        share = f"{flops[what] / seconds / peak:6.1%} of it" if flops[what] else ""
        print(f"{kind:<10} {what:<9} {seconds * 1e3:9.1f} ms   {share}")
    for what in flops:
        print(f"jaxdiff / diffusers, {what}: {times['jaxdiff', what] / times['diffusers', what]:.2f}")


def matmul_peak():
    """FLOP/s of a large product in bfloat16."""
    n = 8192 if jax.default_backend() == "gpu" else 1024
    a = jnp.ones((n, n), jnp.bfloat16)
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
