"""DDIM that is guided in what it predicts and not in the noise that it puts back: CFG++."""

from jax.tree_util import Partial

from jaxdiff.guidance.cfg import blend, halves
from jaxdiff.guidance.weights import Weight, as_weight, weight_at
from jaxdiff.samplers.base import Sampler, State


def ddim_cfgpp(scale: Weight) -> Sampler:
    r"""CFG++ (Chung et al. 2024, algorithm 2) on any falling grid; it draws nothing.

        eps = eps_uncond + scale (eps_cond - eps_uncond),   x0 = (x_t - sigma_t eps) / alpha_t
        x_s = alpha_s x0 + sigma_s eps_uncond

    With `cfg` and `ddim` the last term has eps, which large scales lead away from the data. Here scale 1 is already strong,
    and 0 is DDIM on the unconditional prediction. Its condition is a `Guided(cond, uncond)`, as that of `cfg`; the denoiser
    is the plain one, which is called once a step, on both halves.

    Args:
      scale: lambda in the paper, in [0, 1]; a number, one per example [B], or a function t -> scale. Traced.

    Returns:
      `Sampler`, whose predictions are the guided ones; `sample` raises ValueError where the condition is no `Guided`.

    Raises:
      ValueError: a scale outside of [0, 1], where it is a Python number.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import Guided
        >>> schedule = jaxdiff.schedules.from_betas([0.36, 0.36])  # alpha 0.8, 0.64; sigma 0.6, 0.77
        >>> def denoise(x_t, t, cond):
        ...     return jaxdiff.process.predict_from("x0", schedule, cond, x_t, t)
        >>> cond = Guided(jnp.array([[3.0]]), jnp.array([[1.0]]))
        >>> arguments = denoise, schedule, [2, 1], jnp.array([[0.64]]), cond
        >>> x, _ = jaxdiff.sample(None, jaxdiff.samplers.ddim_cfgpp(0.5), *arguments)
        >>> round(float(x[0, 0]), 4)  # x0 = 2; eps_uncond = (0.64 - 0.64 * 1) / 0.77 = 0
        1.6
    """
    if isinstance(scale, int | float) and not 0 <= scale <= 1:
        raise ValueError(f"scale={scale} must lie in [0, 1]: guidance of this kind interpolates, and 1 is strong")
    return Sampler(Partial(State), Partial(_step, as_weight(scale)))


def _step(scale, keys, denoise, schedule, state, t, s, cond):
    good, bad = halves(denoise, state.x, t, cond)
    guided = blend(good, bad, weight_at(scale, t))
    alpha, sigma = schedule(s)
    return State(alpha * guided.x0 + sigma * bad.eps), guided
