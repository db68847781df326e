"""The schedules of the papers, by name."""

import numpy as np

from jaxdiff.arguments import ABOVE_0, AT_LEAST_0, check_count, check_number
from jaxdiff.registry import Registry
from jaxdiff.schedules.schedule import Schedule
from jaxdiff.schedules.tables import of_alpha_sigma, of_betas

SCHEDULES = Registry("schedule")  # each choice is called as choice(num_levels) -> Schedule


@SCHEDULES.register("linear", leave_out=("num_levels",))
def linear(num_levels: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Linear beta, as in DDPM.

        beta_t = beta_start + (beta_end - beta_start) (t - 1) / (T - 1)        Ho et al. 2020, section 4

    Args:
      num_levels: T; the defaults of the betas are meant for 1000.
      beta_start: beta_1, in (0, 1].
      beta_end: beta_T, in (0, 1].

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, a beta outside of (0, 1], or levels that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(beta), 4) for beta in schedules.linear(3, 0.1, 0.3).betas]
        [0.0, 0.1, 0.2, 0.3]
    """
    num_levels = check_count("num_levels", num_levels)
    _check_betas(beta_start=beta_start, beta_end=beta_end)
    name = f"`num_levels`={num_levels}, `beta_start`={beta_start} and `beta_end`={beta_end}"
    return of_betas(name, np.linspace(beta_start, beta_end, num_levels))


@SCHEDULES.register("scaled_linear", leave_out=("num_levels",))
def scaled_linear(num_levels: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Linear sqrt(beta), as in latent diffusion and Stable Diffusion.

        sqrt(beta_t) = sqrt(beta_start) + (sqrt(beta_end) - sqrt(beta_start)) (t - 1) / (T - 1)    Rombach et al. 2022

    Args:
      num_levels: T; the defaults of the betas are meant for 1000.
      beta_start: beta_1, in (0, 1].
      beta_end: beta_T, in (0, 1].

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, a beta outside of (0, 1], or levels that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(beta), 4) for beta in schedules.scaled_linear(3, 0.01, 0.09).betas]
        [0.0, 0.01, 0.04, 0.09]
    """
    num_levels = check_count("num_levels", num_levels)
    _check_betas(beta_start=beta_start, beta_end=beta_end)
    name = f"`num_levels`={num_levels}, `beta_start`={beta_start} and `beta_end`={beta_end}"
    return of_betas(name, np.linspace(beta_start**0.5, beta_end**0.5, num_levels) ** 2)


@SCHEDULES.register("cosine", leave_out=("num_levels",))
def cosine(num_levels: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """Cosine schedule; "squaredcos_cap_v2" in diffusers.

        alphabar_t = f(t) / f(0),   f(t) = cos^2((t/T + s) / (1 + s) pi/2)        Nichol and Dhariwal 2021, eq. 17

    Args:
      num_levels: T.
      s: small offset that keeps beta_1 from vanishing.
      beta_max: upper limit of beta, in (0, 1], which takes effect in the last steps.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, an s below 0, a beta outside of (0, 1], or levels that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> round(float(schedules.cosine(100, s=0.0).alphas_cumprod[50]), 4)  # cos^2(pi / 4)
        0.5
    """
    num_levels = check_count("num_levels", num_levels)
    check_number("s", s, *AT_LEAST_0)
    _check_betas(beta_max=beta_max)
    alphas_cumprod = np.cos((np.arange(num_levels + 1) / num_levels + s) / (1 + s) * np.pi / 2) ** 2
    betas = np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], beta_max)
    return of_betas(f"`num_levels`={num_levels}, `s`={s} and `beta_max`={beta_max}", betas)


@SCHEDULES.register("sigmoid", leave_out=("num_levels",))
def sigmoid(
    num_levels: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, clip_min: float = 1e-9
) -> Schedule:
    """Sigmoid schedule: alphabar falls as a section of a sigmoid, slowly at both ends.

        alphabar_t = max(clip_min, (v_T - v_t) / (v_T - v_0)),   v_t = sigmoid((start + (end - start) t / T) / tau)
                                                           Jabri, Fleet and Chen 2022; Chen 2023 (noise scheduling)

    Args:
      num_levels: T.
      start: argument of the sigmoid at level 0.
      end: argument at level T, above `start`.
      tau: temperature, above 0; a smaller one is steeper in the middle.
      clip_min: lower limit of alphabar, reached at level T; 0 gives a zero terminal signal-to-noise ratio.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: `start` is not below `end`, tau not above 0, T below 1, or two levels have the same alphabar.

    Example::

        >>> from jaxdiff import schedules
        >>> round(float(schedules.sigmoid(100).alphas_cumprod[50]), 4)  # halfway by symmetry
        0.5
    """
    num_levels = check_count("num_levels", num_levels)
    for name, number in (("start", start), ("end", end), ("tau", tau), ("clip_min", clip_min)):
        check_number(name, number)
    if not (start < end and tau > 0):
        raise ValueError(f"`start`={start} must be below `end`={end}, and `tau`={tau} above 0")
    with np.errstate(all="ignore"):  # refused below
        v = 1 / (1 + np.exp(-np.linspace(start, end, num_levels + 1) / tau))
        alphas_cumprod = np.maximum((v[-1] - v) / (v[-1] - v[0]), clip_min)
    if not np.all(np.diff(alphas_cumprod) < 0):
        raise ValueError(
            f"levels repeat with `tau`={tau} and `clip_min`={clip_min}: use a larger `tau` or a smaller `clip_min`"
        )
    name = f"`start`={start}, `end`={end}, `tau`={tau} and `clip_min`={clip_min}"
    return of_betas(name, 1 - alphas_cumprod[1:] / alphas_cumprod[:-1])


@SCHEDULES.register("rectified_flow", leave_out=("num_levels",))
def rectified_flow(num_levels: int = 1000) -> Schedule:
    """The straight path from data to noise of rectified flow and flow matching.

        alpha_t = 1 - t/T,   sigma_t = t/T                            Liu et al. 2022; Lipman et al. 2022

    For larger images more noise: `shift`, which Stable Diffusion 3 sets to 3 at 1024 pixels.

    Args:
      num_levels: T.

    Returns:
      `Schedule` with T + 1 levels, the last of them pure noise: train and sample with predictions "flow", "v" or "x0".

    Raises:
      ValueError: T is below 1.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(x), 4) for x in schedules.rectified_flow(10)(2.5)]
        [0.75, 0.25]
    """
    num_levels = check_count("num_levels", num_levels)
    t = np.arange(1, num_levels + 1)
    return of_alpha_sigma(f"`num_levels`={num_levels}", (num_levels - t) / num_levels, t / num_levels, bend=0.0)


@SCHEDULES.register("variance_exploding", leave_out=("num_levels",))
def variance_exploding(num_levels: int = 1000, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """Geometrically rising noise on unscaled data: the variance-exploding process.

        alpha_t = 1,   sigma_t = sigma_min (sigma_max / sigma_min)^((t - 1) / (T - 1))      Song et al. 2021 (score SDE)

    Args:
      num_levels: T.
      sigma_min: sigma_1, above 0.
      sigma_max: sigma_T, about the largest distance of two examples.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, or sigmas that are not above 0 and rising, or that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(x), 4) for x in schedules.variance_exploding(3, 0.01, 1.0).sigma]
        [0.0, 0.01, 0.1, 1.0]
    """
    return _exploding(num_levels, sigma_min, sigma_max, np.log, np.exp)


@SCHEDULES.register("edm", leave_out=("num_levels",))
def edm(num_levels: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """EDM's noise levels on unscaled data, spaced by a power rho.

        alpha_t = 1,   sigma_t^(1/rho) even from sigma_min^(1/rho) to sigma_max^(1/rho)     Karras et al. 2022, eq. 5

    Args:
      num_levels: T.
      sigma_min: sigma_1, above 0.
      sigma_max: sigma_T.
      rho: above 0; a larger one has more levels of little noise.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, a rho that is not above 0, or sigmas that are not above 0 and rising, or that float32 cannot
        hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(x), 3) for x in schedules.edm(4).sigma]
        [0.0, 0.002, 0.47, 9.723, 80.0]
    """
    check_number("rho", rho, *ABOVE_0)
    rho = np.float64(rho)  # which is infinite where a float of Python raises
    return _exploding(num_levels, sigma_min, sigma_max, lambda x: x ** (1 / rho), lambda x: x**rho, f", `rho`={rho}")


def _check_betas(**betas):
    for name, beta in betas.items():
        check_number(name, beta, "lie in (0, 1]", lambda x: (x > 0) & (x <= 1))


def _exploding(num_levels, sigma_min, sigma_max, there, back, more=""):
    """Schedule of alpha = 1 and of sigmas that are even in a variable."""
    num_levels = check_count("num_levels", num_levels)
    check_number("sigma_min", sigma_min)
    check_number("sigma_max", sigma_max)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"`sigma_min`={sigma_min} must be above 0 and below `sigma_max`={sigma_max}")
    with np.errstate(all="ignore"):
        sigma = back(np.linspace(there(sigma_max), there(sigma_min), num_levels)[::-1])  # a single level has sigma_max
    name = f"`num_levels`={num_levels}, `sigma_min`={sigma_min} and `sigma_max`={sigma_max}{more}"
    return of_alpha_sigma(name, np.ones(num_levels), sigma)
