"""Edits of images that a ControlNet steers: every method passes control inputs and their scales to the network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import Cond, Guided, denoiser, editing, guidance, network, samplers, schedules, timesteps
from jaxdiff.adapt import control
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.nets.unet import UNet, UNetConfig

SHAPE = UNetConfig(out_channels=2, channels=(8,), blocks=1, attention=(), mid_attention=True, groups=4, context_dim=6)
CONFIG = ControlConfig(SHAPE, embedding=(4, 6))
SCHEDULE, LEVELS = schedules.cosine(1000), timesteps.grid(1000, 4)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 8, 8, 2)).astype(np.float32)
PICTURE, OTHER = RNG.random((2, 1, 16, 16, 3)).astype(np.float32)
SOURCE, TARGET, NULL = RNG.standard_normal((3, 1, 3, 6)).astype(np.float32)


def cond_of(context, picture=PICTURE, scale=1.0):
    return Cond(context=context, control=picture, control_scale=np.full([1], scale, np.float32))


def guided(picture=PICTURE, scale=1.0):
    return Guided(cond_of(SOURCE, picture, scale), cond_of(NULL, picture, scale))


@functools.cache
def denoise():
    """A U-Net with a ControlNet, both with random weights."""
    rng = np.random.default_rng(1)

    def random(module, cond):
        shapes = jax.eval_shape(module.init, jax.random.key(0), X, jnp.zeros(1), cond)["params"]
        return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), shapes)

    bare = Cond(context=SOURCE)
    params = {
        "unet": random(UNet(SHAPE), bare),
        "control": random(ControlNet(CONFIG), bare._replace(control=PICTURE)),
    }
    apply = control.add_control(network(UNet(SHAPE)), network(ControlNet(CONFIG)))
    return denoiser(apply, params, SCHEDULE, "v")


def differ(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def test_pairs_are_sampled_with_their_control_inputs():
    run = lambda guided, target, **how: editing.sample_pairs(
        denoise(), SCHEDULE, LEVELS, X, guided, target, 2.0, edit=editing.no_edit(2, 3), **how
    )[0]
    both = run(guided(), cond_of(TARGET, OTHER))
    for row, cond in zip(both, (guided(), guided(OTHER)._replace(cond=cond_of(TARGET, OTHER)))):
        cond = cond._replace(uncond=cond_of(NULL))  # the source's, for both rows
        alone, _ = samplers.sample(None, samplers.ddim(), guidance.cfg(denoise(), 2.0), SCHEDULE, LEVELS, X, cond)
        np.testing.assert_allclose(row[None], alone, atol=1e-4)
    bare = run(guided(scale=0.0), cond_of(TARGET, OTHER, 0.0))
    assert differ(both[0], bare[0]) > 0.01 and differ(both[1], bare[1]) > 0.01
    noisy = [run(guided(), cond_of(SOURCE), sampler=samplers.ddpm(), key=jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_allclose(noisy[0][0], noisy[0][1], atol=1e-5)
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert differ(noisy[0], noisy[2]) > 0.1


def test_an_inversion_is_reconstructed_with_its_control_inputs_only():
    path = editing.invert(denoise(), SCHEDULE, LEVELS, X, cond_of(SOURCE), refine=30)
    again = lambda cond: editing.reconstruct(denoise(), SCHEDULE, LEVELS, path[0], cond)
    right, wrong = differ(again(cond_of(SOURCE)), X), differ(again(cond_of(SOURCE, OTHER)), X)
    assert right < wrong / 10, (right, wrong)


def test_null_text_optimises_the_context_only():
    """With the control inputs of both halves, guidance then reconstructs the image, and before it does not."""
    path = editing.invert(denoise(), SCHEDULE, LEVELS, X, cond_of(SOURCE), refine=30)
    config = editing.null_text_config(4, max_iterations=100, learning_rate=0.05)._replace(tolerance=jnp.full(4, 1e-9))
    found = editing.null_text(denoise(), SCHEDULE, LEVELS, path, guided(), 3.0, config)
    assert found.shape == (4, *NULL.shape)
    run = lambda embeddings: editing.sample_pairs(
        denoise(), SCHEDULE, LEVELS, path[0], guided(), cond_of(TARGET), 3.0, embeddings
    )[0]
    assert differ(run(found)[0], X[0]) < differ(run(None)[0], X[0]) / 3
    other = editing.null_text(denoise(), SCHEDULE, LEVELS, path, guided(OTHER), 3.0, config)
    assert differ(found, other) > 1e-3  # the optimisation depends on the control inputs
    negative = editing.negative_prompt_inversion(LEVELS, guided())
    np.testing.assert_allclose(run(negative)[0], X[0], atol=1e-2)


def test_sdedit_samples_with_control_inputs():
    guide, levels = guidance.cfg(denoise(), 2.0), editing.strength_grid(1000, 4, 0.6)
    run = lambda cond: editing.sdedit(jax.random.key(0), samplers.ddpm(), guide, SCHEDULE, levels, X, cond)
    keys = samplers.keys_for(jax.random.key(0), 1)
    alpha, sigma = SCHEDULE(levels[0])
    x_t = alpha * X + sigma * samplers.noise(keys, X.shape[1:])
    wanted, _ = samplers.sample(keys, samplers.ddpm(), guide, SCHEDULE, levels, x_t, guided())
    np.testing.assert_allclose(run(guided()), wanted, atol=1e-4)
    assert differ(run(guided()), run(guided(OTHER))) > 1e-3
