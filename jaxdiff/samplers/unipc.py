"""UniPC: a multistep predictor, and a corrector that needs no further evaluation."""

import math
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arguments import check_type, plain
from jaxdiff.errors import check_known
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.dpmpp import half_log_snr
from jaxdiff.types import AlphaSigma, Array, Static

Variant = Literal["bh1", "bh2"]
VARIANTS = get_args(Variant)


class Memory(NamedTuple):
    """Predictions of previous steps.

    Attributes:
      x: the corrected x of the previous step, float32 [B, ...].
      x0: predictions of the last steps, the newest first, [order, B, ...].
      level: their levels, [order]; before the first step levels without signal, which are not interpolated.
    """

    x: Array
    x0: Array
    level: AlphaSigma


@SAMPLERS.register("unipc")
def unipc(order: int = 2, variant: Variant = "bh2") -> Sampler:
    r"""UniPC with predictions of data (Zhao, Bai, Rao, Zhou and Lu 2023), on any falling grid.

    With lambda = log(alpha / sigma) and h = lambda_s - lambda_t a step integrates a polynomial x0(u) through known
    predictions, with u = (lambda - lambda_t) / h:

        x_s = (sigma_s / sigma_t) x_t + alpha_s h int_0^1 e^{-(1 - u) h} x0(u) du
            = (sigma_s / sigma_t) x_t + alpha_s ((1 - e^-h) x0_t + sum_j c_j (x0_j - x0_t) / u_j)

    The predictor's polynomial goes through x0_t and the order - 1 predictions before; the corrector's, once x0_s is known,
    also through x0_s, and corrects x_s before the next step. Through two points c is set to B(h) / 2, as the paper does.

    Where lambda is infinite fewer points are used: the first step, the one out of a level of zero signal-to-noise ratio,
    and the one into level 0 are DDIM's. The order is p + 1 on grids that are smooth in lambda, such as Karras'; the last
    steps of grids even in levels are not, and the measured order is about 2. With few steps, end these at level 0: a last
    step to level 1 spans so much of lambda that its extrapolation adds error.

    Args:
      order: p of the paper's UniPC-p, from 1 to 3; static.
      variant: "bh1", B(h) = h, or "bh2", B(h) = 1 - e^-h; static. It only affects polynomials through two points.

    Returns:
      `Sampler`; the state's x at each level is the one before correction.

    Raises:
      ValueError: another order; unknown variant.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import sample, schedules, testing, timesteps
        >>> from jaxdiff.samplers import unipc
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> x_T = jnp.array([[-1.0], [0.5]])
        >>> levels = timesteps.grid(1000, 50)
        >>> x, _ = sample(None, unipc(), data.denoiser(schedule), schedule, levels, x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 0), atol=0.01))  # the exact solution
        True
    """
    order = check_type("`order`", plain(order), int)
    if order not in (1, 2, 3):
        raise ValueError(f"`order`={order} must be 1, 2 or 3")
    check_known("variant", variant, VARIANTS)
    return Sampler(Partial(_init, Static(order)), Partial(_step, Static(variant)))


def _init(order, x_T):
    n = order.value
    no_signal = AlphaSigma(jnp.zeros(n, jnp.float32), jnp.ones(n, jnp.float32))
    return State(x_T, Memory(x_T, jnp.zeros((n, *x_T.shape), x_T.dtype), no_signal))


def _step(variant, keys, denoise, schedule, state, t, s, cond):
    del keys
    prediction = denoise(state.x, t, cond)
    memory, now = state.memory, schedule(t)
    x0 = prediction.x0.astype(state.x.dtype)
    corrected = _move(variant.value, memory, now, x0)
    x = jnp.where(memory.level.alpha[0] > 0, corrected, state.x)
    push = lambda new, old: jnp.concatenate([new[None], old[:-1]])
    memory = Memory(x, push(x0, memory.x0), AlphaSigma(*map(push, now, memory.level)))
    return State(_move(variant.value, memory, schedule(s)), memory), prediction


def _move(variant, memory, then, x0_then=None):
    """x at the level `then`, from the newest in memory: predicted, or corrected if the prediction at `then` is known."""
    x, x0, level = memory
    ratio = then.sigma / level.sigma[0]
    moved = ratio * x + (then.alpha - level.alpha[0] * ratio) * x0[0]
    finite = (level.alpha > 0) & (then.sigma > 0)
    here = half_log_snr(level)
    h = jnp.where(finite[0], half_log_snr(then) - here[0], 1.0)
    # Points without a finite lambda come last and have weight 0; their u only has to differ from the others'.
    older = range(1, len(x0))
    u = [jnp.where(finite[j], (here[j] - here[0]) / h, -100.0 * j) for j in older]
    points, known = [x0[j] for j in older], [finite[j] for j in older]
    if x0_then is not None:
        u, points, known = [1.0, *u], [x0_then, *points], [finite[0], *known]
    if not points:
        return moved
    c = _weights(variant, h, u, sum(known))
    return moved + then.alpha * sum(c[j] / u[j] * (points[j] - x0[0]) for j in range(len(u)))


def _weights(variant, h, u, count):
    """c of the first `count` points, 0 of the others, [len(u)]: sum_j c_j u_j^(k - 1) = h int e^{-(1 - u) h} u^k du."""
    n = len(u)
    pad = lambda c: c + [0.0] * (n - len(c))
    two_points = {"bh1": h, "bh2": -jnp.expm1(-h)}[variant] / 2
    moments = [_moment(k, h) for k in range(1, n + 1)]
    rows = [[], [two_points], *(_solve(u[:q], moments[:q]) for q in range(2, n + 1))]
    return jnp.array([pad(row) for row in rows])[count]


def _moment(k, h):
    """h int_0^1 e^{-(1 - u) h} u^k du; as a series where the closed form would lose digits."""
    small = jnp.minimum(h, 1.0)
    series = small * math.factorial(k) * sum((-small) ** n / math.factorial(n + k + 1) for n in range(9))
    closed = -jnp.expm1(-h)
    for i in range(1, k + 1):
        closed = 1 - i / h * closed
    return jnp.where(h < 1, series, closed)


def _solve(u, b):
    """c with sum_j c_j u_j^i = b_i: c_j is b applied to the polynomial that is 1 at u_j and 0 at the other points."""
    c = []
    for j in range(len(u)):
        polynomial, at_j = [1.0], 1.0  # coefficients, the lowest power first
        for other in u[:j] + u[j + 1 :]:
            shifted, scaled = [0.0, *polynomial], [*polynomial, 0.0]
            polynomial = [high - other * low for high, low in zip(shifted, scaled)]
            at_j = at_j * (u[j] - other)
        c.append(sum(weight * moment for weight, moment in zip(polynomial, b)) / at_j)
    return c
