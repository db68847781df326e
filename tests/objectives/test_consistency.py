"""Consistency distillation and training on Gaussian data, whose paths have closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import Cond, denoiser, objectives, sample, samplers, schedules, testing, timesteps
from jaxdiff.objectives import levels
from jaxdiff.preconditioning import preconditioned
from jaxdiff.types import Aux

SCHEDULE, VARIANCE, B = schedules.linear(200, 1e-3, 0.05), 0.25, 256
KEYS = jax.random.split(jax.random.key(0), B)


def gaussian(mean):
    return testing.gaussian([mean], VARIANCE)


def teacher(params, x, t, cond=None, keys=None):
    """Data of label y is N(y, 0.25), without a label N(0.5, 0.25)."""
    alpha, sigma = (scale.reshape(-1, 1) for scale in SCHEDULE(jnp.broadcast_to(t, len(x))))
    mean = 0.5 if cond is None else jnp.where(cond.label == 9, 0.5, cond.label)[:, None]
    return mean + VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2) * (x - alpha * mean), Aux()


def ends(params, x, t, cond=None, keys=None, of=(1,)):
    """x0 of the paths of N(params, 0.25) whose DDIM step to the next level `of` these is that of their flow, exactly."""
    t = jnp.broadcast_to(t, len(x))
    e = jnp.asarray(of)[jnp.maximum(jnp.searchsorted(jnp.asarray(of), t) - 1, 0)]
    (alpha, sigma), (alpha_e, sigma_e) = ([scale.reshape(-1, 1) for scale in SCHEDULE(levels)] for levels in (t, e))
    ratio = jnp.hypot(jnp.sqrt(VARIANCE) * alpha_e, sigma_e) / jnp.hypot(jnp.sqrt(VARIANCE) * alpha, sigma)
    x_e = alpha_e * params + ratio * (x - alpha * params)
    slope = alpha_e - sigma_e / sigma * alpha
    return jnp.where((e == t)[:, None], x, (x_e - sigma_e / sigma * x) / slope), Aux()


def batch(mean):
    x0 = mean + np.sqrt(VARIANCE) * np.random.default_rng(0).normal(size=(B, 1))
    return {"image": jnp.asarray(x0, jnp.float32), "cond": Cond(label=jnp.full(B, 1.0))}


def loss_of(params, apply=ends, **options):
    options = {"predict": "x0", "intervals": 199, "huber": 1e-3} | options
    return objectives.consistency(apply, teacher, SCHEDULE, **options)(params, (), KEYS, batch(1.0))[0]


def test_ends_of_the_teachers_paths_have_no_loss():
    """Up to the error of its steps; the ends of other data's paths have one."""
    assert 5 * loss_of(1.0).mean() < loss_of(0.9).mean()
    # Errors of DDIM's steps are of first order in their length, and those of one step of second.
    coarse, fine = (float(loss_of(1.0, intervals=n, huber=1e-6).mean()) for n in (50, 100))
    assert 2 < coarse / fine < 8


def test_phases_end_at_their_own_levels():
    """On the grid of as many DDIM steps; paths through to clean data have a loss there."""
    phases = functools.partial(ends, of=(1, 50, 100, 150))
    fine = functools.partial(loss_of, apply=phases, intervals=196, phases=4)
    assert 5 * fine(1.0).mean() < fine(0.9).mean()
    assert 5 * fine(1.0).mean() < loss_of(1.0, intervals=196, phases=4).mean()
    x_T = jax.random.normal(KEYS[0], (B, 1))
    model = denoiser(phases, jnp.float32(1.0), SCHEDULE, "x0")
    x, _ = sample(None, samplers.ddim(), model, SCHEDULE, timesteps.SPACINGS["trailing"](end=1)(SCHEDULE, 4), x_T)
    exact = jax.vmap(lambda x: gaussian(1.0).flow(SCHEDULE, x, 200, 1))(x_T)
    np.testing.assert_allclose(x, exact, atol=1e-4)


def test_guidance_is_learned():
    """Of Gaussians of one variance it is a Gaussian with an extrapolated mean: 0.5 + 3 (1 - 0.5)."""
    null = Cond(label=9.0)
    guided = lambda mean: loss_of(mean, scale=3.0, null_cond=null).mean()
    assert 5 * guided(2.0) < min(guided(1.9), guided(1.0))


def test_a_network_learns_the_ends():
    loss_fn = objectives.consistency(ends, teacher, SCHEDULE, "x0", intervals=50, huber=0.03)
    optimizer, mean = optax.adam(0.05), jnp.zeros(())

    @jax.jit
    def step(mean, opt_state, key):
        keys = jax.random.split(key, B)
        gradient = jax.grad(lambda mean: loss_fn(mean, (), keys, batch(1.0))[0].mean())(mean)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(mean, updates), opt_state

    opt_state = optimizer.init(mean)
    for i in range(300):
        mean, opt_state = step(mean, opt_state, jax.random.key(i))
    np.testing.assert_allclose(mean, 1.0, atol=0.05)


def seen(model_of_step, **options):
    """Arguments of both calls of the network: at x_s and at x_t."""
    calls = []

    def spy(params, x, t, cond=None, keys=None):
        calls.append((x, t))
        return jnp.zeros_like(x), Aux()

    loss_fn = objectives.consistency(spy, model_of_step, SCHEDULE, "x0", **options)
    loss_fn((), (), KEYS, batch(1.0))
    return calls


def test_without_a_teacher_both_levels_have_one_image_and_noise():
    (x_s, s), (x_t, t) = seen(None, intervals=10)
    x0 = np.asarray(batch(1.0)["image"], np.float64)
    eps = [(np.asarray(x) - np.asarray(SCHEDULE.alpha)[i][:, None] * x0) / np.asarray(SCHEDULE.sigma)[i][:, None]
           for x, i in ((x_s, np.asarray(s)), (x_t, np.asarray(t)))]  # fmt: skip
    np.testing.assert_allclose(*eps, atol=2e-4)
    assert abs(np.std(eps[1]) - 1) < 0.15


def test_levels_are_neighbours_of_the_grid():
    grid = [1, *range(20, 201, 20)]
    for draws in (None, levels.logit_normal(-1.0)):
        (_, s), (_, t) = seen(teacher, intervals=10, levels=draws)
        place = {level: i for i, level in enumerate(grid)}
        assert all(place[int(high)] == place[int(low)] + 1 for low, high in zip(s, t))
        assert len(set(map(int, t))) >= 9


def test_a_teacher_has_no_gradient():
    """Its parameters stand beside those of the network."""
    of = lambda params, x, t, cond=None, keys=None: (x * params["teacher"], Aux())
    learner = lambda params, x, t, cond=None, keys=None: (x * params["learner"], Aux())
    loss_fn = objectives.consistency(learner, of, SCHEDULE, "x0", intervals=20)
    loss = lambda params: loss_fn(params, (), KEYS, batch(1.0))[0].mean()
    gradient = jax.grad(loss)({"teacher": jnp.float32(0.6), "learner": jnp.float32(0.3)})
    assert gradient["teacher"] == 0 and gradient["learner"] != 0


def test_the_gradient_is_that_of_the_higher_level_alone():
    """d/dm of the loss with the target held fixed, by finite differences."""
    found = jax.grad(lambda mean: loss_of(mean, intervals=20, huber=1.0).mean())(0.7)
    step = 1e-2
    numeric = (_with_target(0.7 + step, 0.7) - _with_target(0.7 - step, 0.7)) / (2 * step)
    np.testing.assert_allclose(found, numeric, rtol=0.02)


def _with_target(mean, target):
    """The loss whose network at x_s has other parameters."""
    calls = []

    def two(params, x, t, cond=None, keys=None):
        calls.append(1)
        return ends(target if len(calls) == 1 else mean, x, t)

    loss_fn = objectives.consistency(two, teacher, SCHEDULE, "x0", intervals=20, huber=1.0)
    return loss_fn((), (), KEYS, batch(1.0))[0].mean()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher": None, "scale": 2.0, "null_cond": Cond(label=9.0)}, "`scale`=2.0"),
        ({"scale": 2.0}, "`scale`=2.0"),
        ({"intervals": 1}, "`intervals`=1"),
        ({"intervals": 200}, "`intervals`=200"),
        ({"intervals": 10, "phases": 3}, "`phases`=3"),
        ({"intervals": 10, "phases": 0}, "`phases`=0"),
        ({"intervals": 10, "phases": 10}, "`phases`=10"),
        ({"huber": 0.0}, "`huber`=0.0"),
        ({"huber": np.inf}, "`huber`=inf"),
        ({"scale": np.nan}, "`scale`=nan"),
        ({"teacher": None, "apply": preconditioned(ends, SCHEDULE), "predict": "eps"}, "preconditioned network"),
        ({"predict": "xs"}, "kind of prediction"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        objectives.consistency(**{"apply": ends, "teacher": teacher, "schedule": SCHEDULE} | options)
