"""Sampling of many images: progress, programs that a second run finds compiled, arguments of `generate`."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import TINY, tiny_config

import jaxdiff
from jaxdiff import model as models
from jaxdiff import samplers, schedules, timesteps
from jaxdiff.errors import NotFinite
from jaxdiff.model import Model
from jaxdiff.model.params import init_params
from jaxdiff.pipeline import Request, sampling


@pytest.mark.parametrize(
    "steps, size", [(1, 1), (9, 1), (10, 1), (20, 2), (50, 5), (51, 3), (53, 1), (200, 20), (1000, 100)]
)
def test_ten_ticks_or_more_of_equal_size(steps, size):
    assert sampling.tick_size(steps) == size


def tiny_model(classes=0, **sample) -> Model:
    """A tiny network whose output is not zero; its labels make a difference."""
    config = tiny_config()
    config = dataclasses.replace(
        config,
        net=dataclasses.replace(TINY, num_classes=classes),
        diffusion=dataclasses.replace(config.diffusion, cond_dropout=0.1 if classes else 0.0),
        sample=dataclasses.replace(config.sample, **sample),
    )
    rng, params = np.random.default_rng(0), jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape).astype(np.float32), params)
    return Model(config=config, params=params)


def test_ticks_add_up_to_all_steps():
    model, ticks = tiny_model(num=12, batch_size=8, steps=20), []
    request = Request(model.config.sample)
    drawn = list(sampling.batches(model, request, ticks.append, frames=True))
    assert ticks == [2] * 20 and sum(ticks) == sampling.num_ticks(model, request)
    assert [images.shape[0] for images, _ in drawn] == [8, 4]
    assert [frames.shape[:2] for _, frames in drawn] == [(20, 8), (20, 4)]
    for images, frames in drawn:
        assert np.abs(images.astype(int) - frames[-1]).max() <= 1  # at level 0 x is the predicted x0


def test_the_sampling_program_is_kept_for_the_next_run():
    model = tiny_model(steps=7)
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.clear_caches()
    try:
        list(sampling.batches(model, Request(model.config.sample)))
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert list(Path(jax.config.jax_compilation_cache_dir).glob("jit__steps-*"))


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_samplers_by_name(name):
    assert isinstance(samplers.SAMPLERS.choice(name)(), samplers.Sampler)


SAMPLED = ["predictor_corrector", "probability_flow", "unipc", samplers.SAMPLERS["dpmpp_2m"](sde=True)]


@pytest.mark.parametrize("sampler", SAMPLED, ids=str)
def test_samplers_by_name_sample_from_a_network(sampler):
    images = jaxdiff.generate(tiny_model(steps=3), sampler=sampler, spacing="karras", num=8)
    assert images.shape == (8, 28, 28, 1) and len(np.unique(images)) > 1


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_levels_by_sigma_begin_below_pure_noise(spacing):
    schedule = schedules.zero_terminal_snr(schedules.linear(50))
    levels = timesteps.SPACINGS.choice(spacing)(schedule, 4)
    assert (
        levels.shape == (5,) and levels[0] == pytest.approx(49) and levels[-2] == pytest.approx(1) and levels[-1] == 0
    )
    ratios = schedule(levels[:-1]).sigma / schedule(levels[:-1]).alpha
    if spacing == "exponential":
        np.testing.assert_allclose(ratios[1:] / ratios[:-1], np.full(3, (ratios[-1] / ratios[0]) ** (1 / 3)), rtol=1e-3)


def test_generate_takes_labels_in_every_form():
    model = tiny_model(classes=3, steps=3)
    sevens = jaxdiff.generate(model, labels=[2, 0], num=4, guidance=2.0)
    for labels in ((2, 0), "2,0", np.array([2, 0])):
        np.testing.assert_array_equal(jaxdiff.generate(model, labels=labels, num=4, guidance=2.0), sevens)
    one = jaxdiff.generate(model, labels=2, guidance=2.0)
    assert one.shape == (1, 28, 28, 1) and np.abs(one[0].astype(int) - sevens[0]).max() <= 1
    assert (jaxdiff.generate(model, labels=[0, 0], num=4, guidance=2.0)[0] != sevens[0]).any()


def test_an_image_depends_on_neither_the_number_nor_the_batch_size():
    model = tiny_model(steps=3)
    many = jaxdiff.generate(model, num=20, seed=3)
    few = jaxdiff.generate(model, num=3, seed=3, batch_size=8)
    assert np.abs(many[:3].astype(int) - few).max() <= 1
    assert (jaxdiff.generate(model, num=3, seed=4) != few).any()


def test_a_batch_is_no_larger_than_the_images_need():
    """`num` 1 runs one image on each device, and not a configured batch of 64."""
    model, seen = tiny_model(steps=2, batch_size=64), []
    original = sampling.conditions.rows

    def rows(model, texts, labels, control, indices, guidance):
        seen.append(len(indices))
        return original(model, texts, labels, control, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling.conditions, "rows", rows)
        jaxdiff.generate(model)
    assert seen == [jax.local_device_count()]


def test_results_that_are_not_finite_are_refused():
    model = tiny_model(classes=3, steps=3)
    with pytest.raises(NotFinite, match="image 0 is not finite: lower `guidance`"):
        jaxdiff.generate(model, labels=1, guidance=1e38, clip=False)


def test_unknown_arguments_name_the_nearest():
    with pytest.raises(ValueError, match="unknown argument 'guidence': did you mean 'guidance'"):
        jaxdiff.generate(tiny_model(), guidence=3.0)
    with pytest.raises(ValueError, match=r"`labels`=\(1,\) is for models that were trained with labels"):
        jaxdiff.generate(tiny_model(), labels=[1])
    with pytest.raises(ValueError, match=r"`labels`=\[3\] must lie in 0..2"):
        jaxdiff.generate(tiny_model(classes=3), labels=3)
    with pytest.raises(ValueError, match="no images are sampled from captioned_vae"):
        jaxdiff.generate(models.load("captioned_vae"))


def test_the_recipe_by_hand_is_generate():
    """Each step of the recipe as one public function, in the order in which they happen."""
    model, key = tiny_model(classes=3), jax.random.key(5)
    cond = jaxdiff.condition(model, labels=[2, 1])
    denoise = jaxdiff.guidance.clip_x0(jaxdiff.guidance.cfg(jaxdiff.denoiser_of(model), 2.0), model.schedule)
    args = model.schedule, model.levels(4), model.noise(key, 2), cond
    z, _ = jaxdiff.sample(key, jaxdiff.ddim(), denoise, *args)
    by_hand = np.clip(np.round((np.asarray(jaxdiff.decode(model, z)) + 1) * 127.5), 0, 255)
    images = jaxdiff.generate(model, labels=[2, 1], guidance=2.0, steps=4, seed=5, sampler="ddim")
    assert np.abs(by_hand - images).max() <= 1
