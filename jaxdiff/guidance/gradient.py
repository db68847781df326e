"""Guidance by the gradient of a differentiable function of the image: a classifier, or any objective.

The gradient g of an objective with respect to x_t changes a prediction to

  (1)  eps' = eps - w sigma_t g,   x0' = x0 + w (sigma_t^2 / alpha_t) g

so that x_t = alpha_t x0' + sigma_t eps' still holds. At zero signal-to-noise (alpha_t = 0) x_t is eps, and the prediction
is not changed.

An exact gradient falls with alpha_t. That of a trained network does so only approximately, and where alpha_t is nearly 0,
as at the last level of `schedules.cosine`, its error in x0 is unbounded: apply `clip_x0` to the result, or exclude these
levels by `within`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.guidance.cfg import cond_half
from jaxdiff.guidance.weights import Weight, as_weight, check_weight, weight_at
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Apply, Denoiser, Static, as_partial, rows


def classifier(denoise: Denoiser, log_prob: Callable, schedule: Schedule, scale: Weight) -> Denoiser:
    """Classifier guidance: ascends log p(y | x_t) of a classifier of noisy images.

        eps' = eps - s sigma_t grad_{x_t} log p(y | x_t)        Dhariwal and Nichol 2021, algorithm 2

    and x0' by equation (1). With an exact classifier and an unconditional denoiser, s = 1 gives the conditional prediction,
    and any s that of `cfg`; with a conditional denoiser, s corresponds to the scale of `cfg` minus 1.

    Args:
      denoise: any denoiser. For one without labels use `on_uncond(denoise)` and conditions `Guided(Cond(label=y), None)`.
      log_prob: (x_t, t, cond) -> log p(y | x_t) [B], in which example i depends on x_t[i] only; such as `label_log_prob`.
        It receives the first condition of a `Guided`.
      schedule: noise schedule.
      scale: s; a number, one per example [B], or a function t -> s; traced.

    Returns:
      `Denoiser`, a pytree; unchanged where alpha_t = 0. ValueError if log_prob does not return one number per example.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a scale that is no finite number, unless it is traced; from the denoiser, one of another number of rows.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided, guidance, schedules, testing
        >>> schedule = schedules.linear()
        >>> data = testing.mixture([1, 1], [[-1.0], [1.0]], [0.1, 0.1])
        >>> positive = testing.gaussian([1.0], 0.1)  # the class y, of which p(y | x_t) = q(x_t | y) q(y) / q(x_t)
        >>> def log_prob(x_t, t, cond):
        ...     return positive.log_prob(schedule, x_t, t) - data.log_prob(schedule, x_t, t)
        >>> denoise = guidance.classifier(data.denoiser(schedule), log_prob, schedule, 1.0)
        >>> x_t = jnp.array([[-0.5], [0.3]])
        >>> of_class = positive.denoiser(schedule)(x_t, 300, None)
        >>> bool(jnp.allclose(denoise(x_t, 300, None).x0, of_class.x0, atol=1e-4))
        True
    """
    check_schedule(schedule)
    return Partial(
        _classifier, as_partial(denoise, "denoise"), as_partial(log_prob, "log_prob"), schedule, as_weight(scale)
    )


def label_log_prob(apply: Apply, params) -> Partial:
    """Log probability of the label under a classifier of noisy images: the `log_prob` of `classifier`.

        log p(y | x_t) = log softmax(logits)_y

    Args:
      apply: classifier as a function of its parameters: (params, x_t, t, None) -> (logits [B, classes], Aux).
      params: its parameters.

    Returns:
      (x_t [B, ...], t, cond) -> float32 [B], a pytree. y is `cond.label`, ValueError without one; NaN if y is not a class.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, guidance
        >>> from jaxdiff.types import Aux
        >>> apply = lambda params, x_t, t, cond: (x_t, Aux())  # the pixels are the logits
        >>> log_prob = guidance.label_log_prob(apply, None)
        >>> p = jnp.exp(log_prob(jnp.log(jnp.array([[1.0, 3.0]])), 5, Cond(label=jnp.array([1]))))
        >>> round(float(p[0]), 4)
        0.75
    """
    return Partial(_label_log_prob, Static(apply), params)


def by_gradient(denoise: Denoiser, objective: Callable, schedule: Schedule, strength: Weight) -> Denoiser:
    """Ascends a differentiable objective of the predicted image, through the network.

        eps' = eps - w(t) sigma_t grad_{x_t} objective(x0(x_t, t))        Bansal et al. 2023 (forward universal guidance)

    and x0' by equation (1); the paper descends a loss, which is minus the objective. The strength w determines at which
    levels it acts: `late` changes texture, `early` shape.

    Args:
      denoise: any denoiser, differentiable with respect to x_t.
      objective: (x0 [B, ...], t, cond) -> [B], to be maximised, in which example i depends on x0[i] only. It receives the
        first condition of a `Guided`.
      schedule: noise schedule.
      strength: w; a function of t such as `late(schedule, scale)`, a number, or one per example [B]; traced.

    Returns:
      `Denoiser`, a pytree; unchanged where alpha_t = 0. ValueError if objective does not return one number per example.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a strength that is no finite number, unless it is traced; from the denoiser, one of another number of
        rows.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import guidance, process, schedules
        >>> schedule = schedules.from_betas([0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> half = lambda x_t, t, cond: process.predict_from("x0", schedule, 0.5 * x_t, x_t, t)
        >>> brightness = lambda x0, t, cond: x0.sum(1)  # d x0 / d x_t = 0.5 is its gradient
        >>> denoise = guidance.by_gradient(half, brightness, schedule, 2.0)
        >>> x0, eps, _ = denoise(jnp.array([[1.0]]), 1, None)
        >>> round(float(x0[0, 0]), 4), round(float(eps[0, 0]), 4)  # 0.5 + 2 * 0.5 * 0.45, 1 - 2 * 0.5 * 0.6
        (0.95, 0.4)
    """
    check_schedule(schedule)
    weight = as_weight(strength, "strength")
    return Partial(_by_gradient, as_partial(denoise, "denoise"), as_partial(objective, "objective"), schedule, weight)


def _classifier(denoise, log_prob, schedule, scale, x_t, t, cond=None):
    total = lambda x: _total(log_prob(x, t, cond_half(cond)), x)
    scale = check_weight("scale", weight_at(scale, t), x_t)
    return _shifted(denoise(x_t, t, cond), jax.grad(total)(x_t), scale, schedule, x_t, t)


def _label_log_prob(apply, params, x_t, t, cond):
    label = getattr(cond, "label", None)
    if label is None:
        raise ValueError("classifier guidance needs labels: give cond=jaxdiff.Cond(label=...), int [B]")
    logits, _ = apply.value(params, x_t, t, None)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    label = jnp.where(jnp.asarray(label) < 0, logits.shape[1], label)  # NaN, and not counted from the end
    return jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]


def _by_gradient(denoise, objective, schedule, strength, x_t, t, cond=None):
    def total(x):
        prediction = denoise(x, t, cond)
        return _total(objective(prediction.x0, t, cond_half(cond)), x), prediction

    gradient, prediction = jax.grad(total, has_aux=True)(x_t)
    weight = check_weight("strength", weight_at(strength, t), x_t)
    return _shifted(prediction, gradient, weight, schedule, x_t, t)


def _total(values, x):
    """Sum over examples; its gradient with respect to an example is that of the example's own value."""
    if jnp.shape(values) != x.shape[:1]:
        raise ValueError(
            f"the objective of guidance must have one number per example, {x.shape[:1]}, and has {jnp.shape(values)}"
        )
    return values.sum()


def _shifted(prediction, gradient, weight, schedule, x_t, t):
    """Prediction of equation (1); unchanged where there is no signal."""
    alpha, sigma = (rows(scale, x_t) for scale in schedule(t))
    step = jnp.where(alpha > 0, rows(weight, x_t) * sigma * gradient, 0.0)
    eps = prediction.eps - step
    x0 = prediction.x0 + sigma / jnp.where(alpha > 0, alpha, 1.0) * step
    return prediction._replace(x0=x0, eps=eps)
