"""CFG++: DDIM whose predicted x0 is guided, and whose renoising is unconditional."""

from jax.tree_util import Partial

from jaxdiff.arguments import check_number
from jaxdiff.guidance.cfg import blend, halves
from jaxdiff.guidance.weights import as_weight, weight_at
from jaxdiff.samplers.base import SAMPLERS, Sampler, State


@SAMPLERS.register("ddim_cfgpp", guides_itself=True)
def ddim_cfgpp(scale: float = 0.6) -> Sampler:
    r"""CFG++ (Chung et al. 2024, algorithm 2) on any falling grid; deterministic.

        eps = eps_uncond + scale (eps_cond - eps_uncond),   x0 = (x_t - sigma_t eps) / alpha_t
        x_s = alpha_s x0 + sigma_s eps_uncond

    With `cfg` and `ddim` the last term has eps, which large scales move away from the data. Here scale 1 is already strong,
    and 0 is DDIM on the unconditional prediction. The condition is a `Guided(cond, uncond)`, as for `cfg`; the denoiser
    is the unguided one, which is evaluated once per step, on both conditions as one batch.

    Args:
      scale: lambda in the paper, in [0, 1]; from Python also one per example [B], or a function t -> scale. Traced.

    Returns:
      `Sampler`, whose predictions are the guided ones; `sample` raises ValueError if the condition is not a `Guided`.

    Raises:
      ValueError: a scale outside of [0, 1], unless it is traced.

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
    if not callable(scale):
        wanted = "lie in [0, 1]: CFG++ interpolates, and 1 is strong guidance"
        check_number("scale", scale, wanted, lambda x: (x >= 0) & (x <= 1), per_example=True)
    return Sampler(Partial(State), Partial(_step, as_weight(scale)))


def _step(scale, keys, denoise, schedule, state, t, s, cond):
    good, bad = halves(denoise, state.x, t, cond)
    guided = blend(good, bad, weight_at(scale, t))
    alpha, sigma = schedule(s)
    return State(alpha * guided.x0 + sigma * bad.eps), guided
