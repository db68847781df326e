"""MeanFlow: its identity on velocities in closed form, its draws, and networks that take the end of a step."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config

import jaxdiff
from jaxdiff import Cond, Guided, UNet, objectives, samplers, schedules
from jaxdiff.config import Diffusion, Sample
from jaxdiff.config.checks import check
from jaxdiff.model import Model
from jaxdiff.model.params import init_params
from jaxdiff.nets.dit_config import DiTConfig
from jaxdiff.nets.unet_config import UNetConfig
from jaxdiff.objectives.mean_flow import mean_flow
from jaxdiff.pipeline import sampling
from jaxdiff.pipeline.requests import Request
from jaxdiff.preconditioning import preconditioned
from jaxdiff.train.loop import fit
from jaxdiff.types import Aux

T, B, D = 1000, 64, 0.7
FLOW, KEYS = schedules.rectified_flow(T), jax.random.split(jax.random.key(0), B)


def std(t, spread):
    """Of x_t, for data N(1, spread^2), at t in [0, 1]."""
    return jnp.hypot((1 - t) * spread, t)


def average(params, z, t, cond=None, keys=None):
    """u of the marginal flow of N(1, params^2): its path from z ends at 1 - r + std(r) / std(t) (z - (1 - t))."""
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), z.shape[:1])
    end = t if cond is None or cond.end is None else cond.end
    t, r = t[:, None] / T, end[:, None] / T
    there = 1 - r + std(r, params) / std(t, params) * (z - (1 - t))
    slope = ((t - (1 - t) * params**2) / std(t, params) ** 2) * (z - (1 - t)) - 1  # v of the flow, where r = t
    apart = jnp.where(t == r, 1.0, t - r)
    return jnp.where(t == r, slope, (z - there) / apart), Aux()


def test_steps_of_the_sampler_are_exact_for_average_velocities():
    """In one step, in four, and with both halves of a condition."""
    denoise = jaxdiff.denoiser(average, jnp.float32(D), FLOW, "flow")
    x_T = samplers.noise(KEYS, (3,))
    for levels in ([T, 0], [T, 700, 300, 50, 0]):
        x, _ = samplers.sample(None, samplers.mean_flow(), denoise, FLOW, jnp.array(levels), x_T)
        np.testing.assert_allclose(x, 1 + D * x_T, atol=2e-3)
    guided = jaxdiff.guidance.cfg(denoise, 2.0)
    x, _ = samplers.sample(None, samplers.mean_flow(), guided, FLOW, jnp.array([T, 0]), x_T, Guided(Cond(), Cond()))
    np.testing.assert_allclose(x, 1 + D * x_T, atol=2e-3)


def test_the_identity_holds_for_the_true_average_velocity():
    """Equation (2) with the marginal velocity in place of v of one example: then the network's target is itself."""

    def residual(z, t, r):
        u_at = lambda z, t: average(jnp.float32(D), z, T * t, Cond(end=T * r))[0]
        v = average(jnp.float32(D), z, T * t)[0]
        u, change = jax.jvp(u_at, (z, t), (v, jnp.ones_like(t)))
        return u - (v - (t - r)[:, None] * change)

    t = jnp.linspace(0.3, 0.95, B)
    z = samplers.noise(KEYS, (2,))
    assert jnp.abs(residual(z, t, 0.5 * t)).max() < 1e-3


def test_the_loss_is_least_at_the_true_average_velocity():
    """Its expected gradient is 0 there: v of examples has the marginal's as mean."""
    many = 20000
    keys = jax.random.split(jax.random.key(1), many)
    images = 1 + D * np.random.default_rng(0).normal(size=(many, 1))
    batch = {"image": jnp.asarray(images, jnp.float32)}
    loss_fn = mean_flow(average, FLOW, apart=1.0, power=0.0)
    gradient = jax.jit(jax.grad(lambda spread: loss_fn(spread, (), keys, batch)[0].mean()))
    at, below, above = (float(gradient(jnp.float32(spread))) for spread in (D, 0.6, 0.8))
    assert abs(at) < 0.2 * min(-below, above)


def spied(**options):
    """Levels and ends with which the network is called."""
    seen = {}

    def keep(params, z, t, cond=None, keys=None):
        jax.debug.callback(lambda t, r: seen.update(t=np.asarray(t), r=np.asarray(r)), t, cond.end)
        return params * z, Aux()

    loss_fn = mean_flow(keep, FLOW, **options)
    keys = jax.random.split(jax.random.key(0), 4096)
    loss, (_, metrics) = loss_fn(jnp.float32(0.5), (), keys, {"image": jnp.zeros([4096, 2])})
    jax.effects_barrier()
    return seen["t"], seen["r"], loss, metrics


@pytest.mark.parametrize("apart", [0.0, 0.25, 1.0])
def test_levels_and_ends(apart):
    t, r, loss, metrics = spied(apart=apart, levels=objectives.uniform())
    assert ((r <= t) & (r >= 0) & (t <= T) & (t >= 1)).all()
    chex.assert_tree_all_finite(loss)
    assert abs((r < t).mean() - apart) < 0.03 and (apart or (r == t).all())
    if apart == 1:  # the larger and the smaller of two uniform draws
        assert abs(t.mean() - 2 / 3 * T) < 0.03 * T and abs(r.mean() - 1 / 3 * T) < 0.03 * T
    np.testing.assert_allclose(loss, metrics["error"] / (metrics["error"] + 1e-3), rtol=1e-5)


def test_a_guidance_scale_changes_the_velocity():
    """At r = t the error is that from scale v + (1 - scale) u(null)."""
    apply = lambda params, z, t, cond=None, keys=None: (jnp.full_like(z, cond.label[0]), Aux())
    batch = {"image": jnp.zeros([B, 2]), "cond": Cond(label=jnp.ones(B))}
    options = {"apart": 0.0, "power": 0.0}
    loss_fn = mean_flow(apply, FLOW, Cond(label=3.0), scale=2.0, **options)
    _, (_, metrics) = loss_fn((), (), KEYS, batch)
    _, (_, plain) = mean_flow(lambda *args, **kw: (apply(*args, **kw)[0] * 0 + 2.0, Aux()), FLOW, **options)(
        (), (), KEYS, batch
    )
    np.testing.assert_allclose(metrics["error"], 4 * np.asarray(plain["error"]), rtol=1e-4)  # 1 - (2 v - 3) = 2 (2 - v)


def test_where_the_condition_is_dropped_there_is_no_guidance():
    """The error of a dropped row is that from v itself."""
    apply = lambda params, z, t, cond=None, keys=None: (jnp.full_like(z, 0.0), Aux())
    batch, options = {"image": jnp.ones([B, 2]), "cond": Cond(label=jnp.ones(B))}, {"apart": 0.0, "power": 0.0}
    of = lambda **more: mean_flow(apply, FLOW, Cond(label=3.0), 0.5, **options, **more)((), (), KEYS, batch)[1][1][
        "error"
    ]
    ratio = np.asarray(of(scale=3.0) / of())  # (3 v - 2 * 0)^2, or v^2
    assert {round(float(one), 3) for one in ratio} == {1.0, 9.0} and abs((ratio < 2).mean() - 0.5) < 0.2


def test_its_loss_has_attention_with_a_forward_mode():
    """Whatever "auto" is on other devices."""
    flow = Diffusion("rectified_flow", 50, "flow", objective="mean_flow")
    config = dataclasses.replace(tiny_config(), net=SPECS["unet"], diffusion=flow)
    assert config.net.attention_kernel == "auto" and config.make_trained_net().config.attention_kernel == "plain"
    assert tiny_config().make_trained_net() == tiny_config().make_net()


def test_x0_of_a_step_is_not_clipped():
    """The line through both ends of a step may leave [-1, 1] where it meets clean data."""
    flow = Diffusion("rectified_flow", 50, "flow", objective="mean_flow")
    config = dataclasses.replace(tiny_config(), net=SPECS["unet"], diffusion=flow, sample=Sample("mean_flow", steps=2))
    params = jax.tree.map(lambda x: x + 0.2, init_params(config, jax.random.key(0)))
    model, x = Model(config=config, params=params), 3 * jnp.ones([1, 28, 28, 1])
    x0 = lambda sample: sampling.make_denoiser(model, Request(sample))(x, 25, Guided(Cond(), Cond())).x0
    clipped = dataclasses.replace(config.sample, sampler=samplers.SAMPLERS.choice("ddim"))
    assert jnp.abs(x0(config.sample)).max() > 1 >= jnp.abs(x0(clipped)).max()


SPECS = {
    "unet": UNetConfig(out_channels=1, channels=(8, 8), blocks=1, attention=(1,), groups=4, takes_end=True),
    "dit": DiTConfig(out_channels=1, width=16, depth=1, heads=2, patch=4, takes_end=True),
}


@pytest.mark.parametrize("kind", SPECS)
def test_a_network_is_trained_and_draws_in_one_step(kind, tmp_path):
    config = dataclasses.replace(
        tiny_config(),
        net=SPECS[kind],
        diffusion=Diffusion("rectified_flow", 50, "flow", objective="mean_flow", levels="logit_normal"),
        sample=Sample(sampler="mean_flow", steps=1, num=8, batch_size=8),
    )
    fit(config, run=tmp_path / "run")
    model = jaxdiff.load(tmp_path / "run")
    assert jaxdiff.generate(model, num=2).shape == (2, 28, 28, 1)
    params = jax.tree.map(lambda x: x + 0.1, model.params)
    x, at = jnp.ones([2, 28, 28, 1]), lambda end: jax.jit(model.apply)(params, x, 30.0, end)[0]
    ends = [at(Cond(end=jnp.full(2, end))) for end in (30.0, 10.0)]
    chex.assert_trees_all_close(ends[0], at(None), atol=1e-6)
    assert jnp.abs(ends[0] - ends[1]).max() > 1e-4


def test_ends_are_converted_as_levels_are():
    """The interval that a network is given is in the units of its times."""
    spec = SPECS["unet"]
    params = jax.jit(spec.make().init)(jax.random.key(0), *spec.example((8, 8, 1)))["params"]
    params = jax.tree.map(lambda x: x + 0.05, params)
    x = jnp.ones([1, 8, 8, 1])
    time = jaxdiff.preconditioning.network_time("sigma", schedules.rectified_flow(50))
    found, _ = jaxdiff.network(spec.make(), time)(params, x, 25, Cond(end=jnp.array([10.0])))
    wanted = spec.make().apply({"params": params}, x, jnp.array([500.0]), Cond(end=jnp.array([200.0])))
    chex.assert_trees_all_close(found, wanted, atol=1e-5)


def test_mistakes():
    flow = {"schedule": "rectified_flow", "predict": "flow", "objective": "mean_flow"}
    net = dataclasses.replace(tiny_config().net, takes_end=True)

    def config(net, **diffusion):
        return dataclasses.replace(tiny_config(), net=net, diffusion=Diffusion(**(flow | diffusion)))

    for made, message in (
        (config(tiny_config().net), "`net.takes_end`=False"),
        (config(net, objective="denoising"), "`net.takes_end`=True"),
        (config(net, schedule="cosine"), "is of `diffusion.schedule`=rectified_flow"),
        (config(net, predict="v"), "`diffusion.predict`=flow"),
        (config(net, shift=2.0), "without `diffusion.shift`"),
        (config(net, weighting="min_snr"), "not for the objective 'mean_flow'"),
        (config(net, levels="stratified"), "`diffusion.levels`=stratified draws no two independent levels"),
        (config(net, levels="importance"), "`diffusion.levels`=importance draws no two independent levels"),
        (config(dataclasses.replace(net, attention_kernel="xla")), "`net.attention_kernel`=xla has no derivative"),
    ):
        with pytest.raises(ValueError, match=message):
            check(made)
    for options, message in (
        ({"schedule": schedules.cosine(T)}, "`schedule` must be rectified_flow"),
        ({"apart": 1.5}, "`apart`=1.5"),
        ({"power": -1.0}, "`power`=-1.0"),
        ({"scale": math.nan}, "`scale`=nan"),
        ({"apply": preconditioned(average, FLOW)}, "`predict`='flow' is not what a preconditioned network"),
        ({"scale": 2.0}, "`scale`=2.0 needs `null_cond`"),
        ({"cond_dropout": 0.1}, "needs `null_cond`"),
    ):
        with pytest.raises(ValueError, match=message):
            mean_flow(**({"apply": average, "schedule": FLOW} | options))
    with pytest.raises(ValueError, match="the sampler mean_flow is for networks trained with"):
        jaxdiff.generate(jaxdiff.load("digits"), labels=[1], num=1, sampler="mean_flow")
    wide = mean_flow(lambda params, z, t, cond=None, keys=None: (jnp.concatenate([z, z], -1), Aux()), FLOW)
    with pytest.raises(ValueError, match="the network's output has shape"):
        wide((), (), KEYS, {"image": jnp.zeros([B, 1])})
    with pytest.raises(ValueError, match=r"takes cond.end \[B\]"):
        UNet(net).init(jax.random.key(0), jnp.ones([1, 28, 28, 1]), jnp.ones(1), Cond(end=jnp.ones([1, 1])))
    with pytest.raises(ValueError, match="`round_levels` is not for a network"):
        jaxdiff.denoiser_of(Model(config=config(net), params={}), round_levels=True)
    with pytest.raises(ValueError, match="takes no end"):
        UNet(tiny_config().net).init(jax.random.key(0), jnp.ones([1, 28, 28, 1]), jnp.ones(1), Cond(end=jnp.ones(1)))
