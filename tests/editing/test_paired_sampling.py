"""Pairs of source and edited images, also with samplers that add noise, and attention maps of words."""

import gaussians
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Cond, Guided, Prediction, editing, guidance, samplers, schedules, timesteps
from jaxdiff import model as models
from jaxdiff.nets.transformer import Site
from jaxdiff.process import predict_from
from jaxdiff.samplers import base
from jaxdiff.types import Aux

SCHEDULE = schedules.cosine(1000)
LEVELS = timesteps.grid(1000, 20)
X0 = jax.random.normal(jax.random.key(0), [4, 2])
TOKENIZER, SITE = models.load("captioned").text_encoder.tokenizer, Site("site", True, (4, 4))


def cond_of(context, by="context"):
    """Condition of the toy, in one of its leaves."""
    return Cond(context=context[:, None]) if by == "context" else Cond(label=context)


def denoise_by(by):
    """x0 is the mean of the condition and x_t."""

    def denoise(x_t, t, cond):
        mean = cond.context[:, 0] if by == "context" else cond.label
        return predict_from("x0", SCHEDULE, (mean + x_t) / 2, x_t, t)

    return denoise


@pytest.mark.parametrize("by", ["context", "label"])
def test_the_source_is_reconstructed_with_its_embeddings_and_the_edited_image_differs(by):
    denoise, guided = denoise_by(by), Guided(cond_of(X0, by), cond_of(0 * X0, by))
    path = editing.invert(denoise, SCHEDULE, LEVELS, X0, guided.cond)
    search = editing.null_text_config(20, max_iterations=200, learning_rate=0.05)._replace(tolerance=jnp.full(20, 1e-9))
    nulls = editing.null_text(denoise, SCHEDULE, LEVELS, path, guided, 3.0, search, leaf=by)
    args = denoise, SCHEDULE, LEVELS, path[0], guided
    both, _ = editing.sample_pairs(*args, cond_of(-X0, by), 3.0, uncond_embeddings=nulls, leaf=by)
    np.testing.assert_allclose(both[:4], X0, atol=0.02)
    assert np.abs(both[4:] - X0).mean() > 0.5
    plain, _ = editing.sample_pairs(*args, cond_of(-X0, by), 3.0)
    assert np.abs(plain[:4] - X0).max() > 0.1
    same, _ = editing.sample_pairs(*args, guided.cond, 3.0, uncond_embeddings=nulls, leaf=by)
    np.testing.assert_allclose(same[4:], same[:4], atol=1e-6)


STOCHASTIC = {
    "ddim, eta 1": samplers.ddim(1.0),
    "ddpm": samplers.ddpm(),
    "euler_ancestral": samplers.euler_ancestral(),
    "dpmpp_2m, sde": samplers.dpmpp_2m(sde=True),
}


@pytest.mark.parametrize("sampler", STOCHASTIC.values(), ids=STOCHASTIC)
def test_an_empty_edit_is_the_identity_bit_for_bit_with_noise(sampler):
    """The images of a pair share their noise, those of different pairs do not."""
    context, key = jax.random.normal(jax.random.key(1), [2, 4, 2]), jax.random.key(2)
    guided, x_T = Guided(Cond(context=context), Cond(context=0 * context)), jnp.ones([2, 2])
    run = lambda target, key: editing.sample_pairs(
        mixed, SCHEDULE, LEVELS, x_T, guided, target, 2.0, edit=editing.no_edit(4, 4), sampler=sampler, key=key
    )[0]
    same, other = run(guided.cond, key), run(Cond(context=context + 1), key)
    np.testing.assert_array_equal(same[2:], same[:2])
    np.testing.assert_array_equal(other[:2], same[:2])
    assert np.abs(other[2:] - same[:2]).min() > 0.1
    one = guided._replace(cond=Cond(context=context[:1]), uncond=Cond(context=0 * context[:1]))
    alone, _ = samplers.sample(key, sampler, guidance.cfg(mixed, 2.0), SCHEDULE, LEVELS, x_T[:1], one)
    np.testing.assert_allclose(same[:1], alone, atol=1e-5)
    keys = samplers.keys_for(key, 2)
    np.testing.assert_array_equal(run(guided.cond, keys), same)
    swapped = run(guided.cond, keys[::-1])
    assert np.abs(swapped - same).min() > 1e-3


def mixed(x_t, t, cond):
    """x0 is the mean of the context and x_t, so that added noise stays."""
    return predict_from("x0", SCHEDULE, (cond.context.mean(1) + x_t) / 2, x_t, t)


@pytest.mark.parametrize("sampler", [samplers.ddim(1.0), samplers.ddpm(), samplers.euler_ancestral()])
def test_pairs_with_noise_have_the_variance_of_their_steps_and_differ_by_a_constant(sampler):
    rows, levels = 4000, timesteps.grid(1000, 10)
    guided = Guided(Cond(context=jnp.zeros([rows, 1])), Cond(context=jnp.zeros([rows, 1])))
    target, x_T = Cond(context=jnp.ones([rows, 1])), jax.random.normal(jax.random.key(3), [rows, 1])
    args = gaussians.denoiser(SCHEDULE, 0.25), SCHEDULE, levels, x_T, guided, target, 1.0
    x, _ = editing.sample_pairs(*args, sampler=sampler, key=jax.random.key(4))
    wanted = gaussians.ancestral_variance(SCHEDULE, levels, 0.25, 1.0)
    for half in (x[:rows], x[rows:]):
        np.testing.assert_allclose(half.var(), wanted, rtol=0.1)
    np.testing.assert_allclose(x[rows:] - x[:rows], (x[rows:] - x[:rows]).mean() + 0 * x_T, atol=1e-4)


@pytest.mark.parametrize("sampler", [samplers.ddim(0.5), *STOCHASTIC.values()])
def test_samplers_that_add_noise_cannot_follow_an_inversion(sampler):
    guided, path = Guided(cond_of(X0), cond_of(0 * X0)), jnp.zeros([21, *X0.shape])
    args = denoise_by("context"), SCHEDULE, LEVELS, X0, guided, cond_of(X0), 2.0
    embeddings = editing.negative_prompt_inversion(LEVELS, guided)
    for noisy in (sampler, editing.local_blend(sampler, np.ones([8, 1]), np.zeros(8, int))):
        with pytest.raises(ValueError, match="`sampler` adds noise: only a deterministic one"):
            editing.sample_pairs(*args, embeddings, sampler=noisy, key=jax.random.key(0))
        with pytest.raises(ValueError, match="`sampler` adds noise: only a deterministic one"):
            editing.direct_inversion(noisy, LEVELS, path, np.ones(4, bool))


@pytest.mark.parametrize("sampler", [samplers.ddim(), samplers.dpmpp_2m(), samplers.heun(), samplers.ddim_cfgpp(0.5)])
def test_deterministic_samplers_may_follow_an_inversion(sampler):
    blend = editing.local_blend(sampler, np.ones([4, 1]), np.zeros(4, int))
    for one in (sampler, blend):
        editing.direct_inversion(one, LEVELS, jnp.zeros([21, *X0.shape]), np.ones(4, bool))


def test_conditions_of_another_structure_are_refused():
    guided = Guided(cond_of(X0)._replace(control=X0), cond_of(0 * X0))
    with pytest.raises(ValueError, match="`target` must have the same conditions"):
        editing.sample_pairs(denoise_by("context"), SCHEDULE, LEVELS, X0, guided, cond_of(X0), 2.0)


def test_another_prompt_and_scale_do_not_recompile():
    denoise, guided = jax.tree_util.Partial(denoise_by("context")), Guided(cond_of(X0), cond_of(0 * X0))
    run = lambda target, scale: editing.sample_pairs(denoise, SCHEDULE, LEVELS, X0, guided, cond_of(target), scale)
    run(-X0, 2.0)
    before = base._sample._cache_size()
    run(X0 + 1, 7.5)
    assert base._sample._cache_size() == before


def spread(x_t, t, cond):
    """Toy with attention to its context, which may be edited: x0 is the attended mean."""
    p = jnp.broadcast_to(jnp.arange(1, 5) / 10, [x_t.shape[0], 1, 1, 4])
    if cond.attention_edit is not None:
        p = cond.attention_edit(p, SITE, jnp.broadcast_to(t, x_t.shape[:1]))
    prediction = predict_from("x0", SCHEDULE, jnp.einsum("bl,bld->bd", p[:, 0, 0], cond.context), x_t, t)
    return prediction._replace(aux=Aux(maps={"site": p[:, 0] * jnp.ones([1, 16, 1])}))


def one_edit(scale=1.0):
    """Rows 0 and 1 are sources, 2 and 3 edited, with one token scaled."""
    edit = editing.no_edit(1, 4)
    scales = np.array([[1.0, scale, 1.0, 1.0]], np.float32)
    return editing.pairs(
        [edit._replace(token_scale=scales, cross_window=np.array([[[1000.0] * 4, [0.0] * 4]], np.float32))] * 2
    )


def test_a_source_share_per_step():
    """The toy's prediction does not depend on x_t, so that the last step alone determines the result."""
    context = jax.random.normal(jax.random.key(1), [4, 4, 2])
    says = lambda rows: Cond(context=context[rows])
    guided, target, edit = Guided(says(slice(2)), says(slice(2))), says(slice(2, 4)), one_edit(3.0)
    run = lambda edit: editing.sample_pairs(spread, SCHEDULE, LEVELS, X0[:2], guided, target, 1.0, edit=edit)[0]
    per_step = lambda *steps: edit._replace(
        source_share=np.isin(np.arange(20), steps)[:, None, None] * np.ones([1, 4, 4])
    )
    edit = edit._replace(mapper=edit.mapper[:, ::-1])  # so that taking over attention changes it
    edit = edit._replace(token_scale=np.ones_like(edit.token_scale))
    np.testing.assert_allclose(run(per_step(*range(20))), run(edit), atol=1e-5)
    np.testing.assert_allclose(run(per_step()), run(edit._replace(source_share=0 * edit.source_share)), atol=1e-5)
    np.testing.assert_allclose(run(per_step(19)), run(edit), atol=1e-5)
    assert np.abs(run(per_step(18)) - run(edit)).max() > 0.1


def test_no_method_recompiles_for_other_tokens_scales_and_windows():
    context = jax.random.normal(jax.random.key(1), [2, 4, 2])
    guided, path = Guided(Cond(context=context), Cond(context=0 * context)), jnp.zeros([21, 4, 8, 8, 2])
    looks = jax.tree_util.Partial(lambda x_t, t, cond: spread_over(x_t, t, cond))

    def run(how, number, source=(True, True, False, False)):
        sampler = {
            "plain": samplers.ddim(),
            "direct": editing.direct_inversion(samplers.ddim(), LEVELS, path + number, source),
            "blend": editing.local_blend(
                samplers.ddim(), np.full([4, 4], number / 9), [0, 0, -2, -2], size=4, threshold=number / 9, start=number
            ),
        }[how]
        edit = one_edit(number)
        edit = edit._replace(
            cross_window=edit.cross_window / number,
            mapper=edit.mapper * number,
            source_share=edit.source_share / number,
        )
        args = looks, SCHEDULE, LEVELS, path[0, :2] + number, guided, Cond(context=context * number), float(number)
        return editing.sample_pairs(
            *args, edit=edit, sampler=sampler, uncond_embeddings=jnp.full([20, *context.shape], float(number))
        )

    for how in ("plain", "direct", "blend"):
        run(how, 2)  # the Python number 1 as scale has another program, without the unconditional half
        before = base._sample._cache_size()
        run(how, 3)
        assert base._sample._cache_size() == before, how


def spread_over(x_t, t, cond):
    """`spread` at every pixel."""
    prediction = spread(x_t.mean((1, 2)), t, cond)
    return predict_from("x0", SCHEDULE, prediction.x0[:, None, None] + 0 * x_t, x_t, t)._replace(aux=prediction.aux)


def collected(maps, shape, size):
    state = samplers.State(jnp.zeros([1, *shape, 1]))
    return editing.collect_maps(size)(state, Prediction(None, None, Aux(maps=maps)))


def test_maps_are_averaged_over_sites_of_a_size():
    maps = {"a": jnp.full([1, 4, 3], 0.2), "b": jnp.full([1, 4, 3], 0.4), "c": jnp.full([1, 16, 3], 0.5)}
    np.testing.assert_allclose(collected(maps, (8, 8), 2), np.full([1, 2, 2, 3], 0.3))
    np.testing.assert_allclose(collected(maps, (8, 8), None), np.full([1, 4, 4, 3], 0.5))
    with pytest.raises(ValueError, match="no attention maps of `size`=3: one of"):
        collected(maps, (8, 8), 3)
    assert editing.collect_maps(2) is editing.collect_maps(2)


def test_maps_of_images_that_are_not_square():
    tall = jnp.arange(8.0).reshape(1, 8, 1)
    np.testing.assert_array_equal(collected({"a": tall}, (16, 8), None)[0, ..., 0], np.arange(8.0).reshape(4, 2))
    np.testing.assert_array_equal(collected({"a": tall}, (8, 16), 4)[0, ..., 0], np.arange(8.0).reshape(2, 4))


def test_a_word_of_several_tokens_has_the_sum_of_their_maps():
    prompt = "a photo of orange on red"
    tokens = len(TOKENIZER.token_ids("orange"))
    maps = np.zeros([5, 2, 2, 24], np.float32)
    maps[:, 1, 0, TOKENIZER.positions(prompt, "orange")] = 0.1
    maps[:, 0, 1, TOKENIZER.positions(prompt, "red")] = 0.05
    looked = editing.word_heatmaps(maps, TOKENIZER, prompt)
    assert tokens > 1 and list(looked) == prompt.split()
    np.testing.assert_allclose(looked["orange"], [[0, 0], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(looked["red"], [[0, 0.5 / tokens], [0, 0]], atol=1e-6)
