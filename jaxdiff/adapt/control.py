"""ControlNet: a trained network is told a picture, by what a copy of its encoder adds on its way up (Zhang et al. 2023).

With z_1, ..., z_n the skips and the bottom of the U-Net, D its way up, and r_ki what the k-th control branch says, see
`jaxdiff.nets.controlnet`:

(1)  eps = D(z_1 + sum_k s_k1 r_k1, ..., z_n + sum_k s_kn r_kn)

The branches are functions of parameters beside the network's own, so that training differentiates by params["control"]
alone. At first r = 0, and the network is what it was.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.denoise import network
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.types import Apply, Array, Cond, rows

_WAY_UP = ("up_blocks_", "conv_norm_out", "conv_out")  # what of a U-Net is not its encoder


@functools.cache
def add_control(apply_unet: Apply, *apply_controls: Apply) -> Apply:
    """The network with its control branches, equation (1); equal arguments give the same function.

    It reads `cond.control`, the picture, and `cond.control_scale`, s, float [B], or [B, n] one for each residual, see
    `guess_scales`; None is 1. The branches are told the rest of the condition, too, but no attention_edit, which is the
    network's alone. Where there is no picture, no branch runs. In the unconditional half of guidance the scale may be 0.

    Args:
      apply_unet: of a `UNet`, by `jaxdiff.network`.
      *apply_controls: of each `ControlNet`, likewise. Where there are several, params["control"], cond.control and
        cond.control_scale are tuples of as many; a branch whose picture is None does not run, a scale that is None is 1.

    Returns:
      apply(params, x_t, t, cond=None, keys=None), as of `jaxdiff.network`, with params {"unet": ..., "control": ...}.

    Raises:
      ValueError: no branch at all; when called, conditions that are not one for each branch, or do not fit.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.adapt import control
        >>> from jaxdiff.nets.controlnet import ControlConfig, ControlNet
        >>> shape = jaxdiff.UNetConfig(channels=(8,), blocks=1, attention=(), mid_attention=False, groups=4)
        >>> unet, config = jaxdiff.UNet(shape), ControlConfig(shape, embedding=(4, 8))
        >>> x, told = jnp.ones([1, 8, 8, 3]), jaxdiff.Cond(control=jnp.ones([1, 16, 16, 3]))
        >>> base = jax.jit(unet.init)(jax.random.key(0), x, jnp.ones([1]))["params"]
        >>> params = {"unet": base, "control": control.init(jax.random.key(1), config, base)}
        >>> apply = control.add_control(jaxdiff.network(unet), jaxdiff.network(ControlNet(config)))
        >>> said, _ = jax.jit(apply)(params, x, 500, told)
        >>> bool((said == jax.jit(jaxdiff.network(unet))(base, x, 500)[0]).all())  # at first
        True
    """
    if not apply_controls:
        raise ValueError("add_control needs a control branch: network(ControlNet(config))")

    def apply(params, x_t, t, cond=None, keys=None):
        if cond is None or cond.control is None:
            return apply_unet(params["unet"], x_t, t, cond, keys=keys)
        each = functools.partial(_each, len(apply_controls))
        said = [] if cond.residuals is None else [tuple(cond.residuals)]
        bare = cond._replace(control=None, control_scale=None, residuals=None)
        branches = zip(
            apply_controls,
            each('params["control"]', params["control"]),
            each("cond.control", cond.control),
            each("cond.control_scale", cond.control_scale),
        )
        for i, (branch, weights, picture, scale) in enumerate(branches):
            if picture is not None:
                told = bare._replace(control=picture, attention_edit=None)
                residuals, _ = branch(weights, x_t, t, told, keys=_own_keys(keys, i))
                said.append(_scaled(residuals, scale))
        return apply_unet(params["unet"], x_t, t, bare._replace(residuals=_added(said)), keys=keys)

    return apply


def _each(count, name, given):
    """One for each branch."""
    several = isinstance(given, tuple | list)
    if count == 1 and not several:
        return (given,)
    if given is None:
        return (None,) * count
    if count == 1 or not several or len(given) != count:
        wanted = "one and no tuple" if count == 1 else f"a tuple of {count}"
        raise ValueError(f"{name} must be {wanted} for {count} control branch{'es' * (count > 1)}")
    return given


def _own_keys(keys, i):
    """Keys of the i-th branch, whose layers have the names of the network's, and would drop the same with its keys."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)


def _scaled(residuals, scale):
    if scale is None:
        return residuals
    batch, shape = len(residuals[0]), jnp.shape(scale)
    if shape not in ((batch,), (batch, len(residuals))):
        raise ValueError(
            f"cond.control_scale must be ({batch},), or ({batch}, {len(residuals)}) for each residual, not {shape}"
        )
    columns = [scale] * len(residuals) if len(shape) == 1 else jnp.moveaxis(jnp.asarray(scale), 1, 0)
    return tuple(rows(s, r) * r for s, r in zip(columns, residuals))


def _added(said):
    """The sum over branches of the residuals of each place; None of none."""
    counts = {len(residuals) for residuals in said}
    if len(counts) > 1:
        raise ValueError(f"control branches of other networks than one another: they say {sorted(counts)} residuals")
    return tuple(map(sum, zip(*said))) if said else None


class Control(NamedTuple):
    """A trained ControlNet.

    Attributes:
      net: the module.
      params: its parameters.
      condition: what it was trained to be told, such as "edges", see `jaxdiff.data.control_inputs`.
    """

    net: ControlNet
    params: Any
    condition: str


def with_controls(apply_unet: Apply, params, controls: Sequence[Control]) -> tuple[Apply, Any]:
    """A network with such ControlNets at its side, and the parameters that it then takes; without any, as it is.

    Args:
      apply_unet: of a `UNet`, by `jaxdiff.network`.
      params: its parameters.
      controls: any number.
    """
    if not controls:
        return apply_unet, params
    weights = tuple(control.params for control in controls)
    apply = add_control(apply_unet, *(network(control.net) for control in controls))
    return apply, {"unet": params, "control": weights if len(weights) > 1 else weights[0]}


def check(config: ControlConfig, params, base_params) -> None:
    """Raises ValueError for a ControlNet of another network, which names the first layer that does not fit."""
    wanted = jax.eval_shape(lambda: init(jax.random.key(0), config, base_params))
    wanted, given = (flatten_dict(tree, sep="/") for tree in (wanted, params))
    for path in sorted(wanted.keys() | given.keys()):
        here, there = (tuple(flat[path].shape) if path in flat else "not there" for flat in (wanted, given))
        if here != there:
            raise ValueError(f"this ControlNet is of another network: {path} is {here} here, and {there} in it")


def init(key: Array, config: ControlConfig, base_params):
    """Parameters of a `ControlNet` that is a trainable copy of a network's encoder, and changes nothing yet.

    Args:
      key: random key, for the layers that read the picture.
      config: of the ControlNet, with the base's `UNetConfig`.
      base_params: of the `UNet`, a tree of dicts.

    Returns:
      Parameters float32: what the network has too is a copy of it, the convolutions that lead into it are zero.

    Raises:
      ValueError: the base is another network than the config says, of which the first layer that does not fit is named.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import UNet, UNetConfig
        >>> from jaxdiff.adapt import control
        >>> from jaxdiff.nets.controlnet import ControlConfig
        >>> shape = UNetConfig(channels=(8,), blocks=1, attention=(), mid_attention=False, groups=4)
        >>> base = jax.jit(UNet(shape).init)(jax.random.key(0), jnp.ones([1, 8, 8, 3]), jnp.ones([1]))["params"]
        >>> params = control.init(jax.random.key(1), ControlConfig(shape, embedding=(4,)), base)
        >>> bool((params["conv_in"]["kernel"] == base["conv_in"]["kernel"]).all())
        True
        >>> float(abs(params["controlnet_mid_block"]["kernel"]).max())
        0.0
    """
    base, net = flatten_dict(base_params, sep="/"), ControlNet(config)
    example = _example(config, base)
    _check_base(base, flatten_dict(jax.eval_shape(net.init, key, *example)["params"], sep="/"))
    fresh = flatten_dict(jax.jit(net.init)(key, *example)["params"], sep="/")
    # Copies also in memory: training gives the branch's old arrays away, and the base is still to be there.
    return unflatten_dict({path: jnp.array(base.get(path, leaf), leaf.dtype) for path, leaf in fresh.items()}, sep="/")


def _check_base(base, wanted):
    for path in sorted(base.keys() | wanted.keys()):
        there, here = (tuple(flat[path].shape) if path in flat else "not there" for flat in (base, wanted))
        if there != here and not path.startswith(("controlnet_", *_WAY_UP)):
            raise ValueError(
                f"this base is another network than the config says: {path} is {there} in it, and {here} by the config"
            )


def _example(config, base):
    """The smallest noisy image, a time, and a condition that a ControlNet can be called with."""
    cfg, entry = config.unet, "conv_in/kernel"
    channels = (base[entry].shape[-2] if entry in base else 0) // cfg.patch**2 - cfg.image_channels
    if channels < 1:
        raise ValueError(
            f"this base is another network than the config says: {entry} does not have the channels that are needed for "
            f"patch={cfg.patch} and image_channels={cfg.image_channels}"
        )
    side = cfg.patch * 2 ** (len(cfg.channels) - 1)
    x = jnp.zeros([1, side, side, channels])
    return (
        x,
        jnp.zeros([1]),
        Cond(
            label=jnp.zeros([1], int) if cfg.num_classes else None,
            vector=jnp.zeros([1, cfg.vector_dim]) if cfg.vector_dim else None,
            context=jnp.zeros([1, cfg.context_length or 1, cfg.context_dim]) if cfg.context_dim else None,
            image=jnp.zeros([1, side, side, cfg.image_channels]) if cfg.image_channels else None,
            control=jnp.zeros([1, *config.picture_shape(x.shape)]),
        ),
    )


def guess_scales(scale: float, count: int) -> Array:
    """Scales of guess mode, in which the picture alone says what is drawn, for a network that is given an empty prompt.

        s_i = scale 10^(-1 + (i - 1) / (count - 1)),   i = 1, ..., count        published code of ControlNet, guess mode

    The fine skips count for least. The unconditional half of guidance is not told the picture in this mode: zero rows.

    Args:
      scale: of the bottom, the last one. Traced.
      count: n, see `num_residuals`.

    Returns:
      float32 [count], one row of a `cond.control_scale` [B, n].

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided
        >>> from jaxdiff.adapt import control
        >>> scales = jnp.tile(control.guess_scales(1.0, 3)[None], (2, 1))  # of two images
        >>> [[round(float(s), 3) for s in row] for row in scales]
        [[0.1, 0.316, 1.0], [0.1, 0.316, 1.0]]
        >>> picture = jnp.ones([2, 32, 32, 3])
        >>> told = Guided(Cond(control=picture, control_scale=scales), Cond(control=picture, control_scale=0 * scales))
    """
    return scale * jnp.logspace(-1, 0, count)


def num_residuals(config: UNetConfig) -> int:
    """How many residuals a U-Net reads: n, one for each skip and one for the bottom.

    Args:
      config: of the `UNet`.

    Returns:
      As many as there are.

    Example::

        >>> from jaxdiff import UNetConfig
        >>> from jaxdiff.adapt import control
        >>> control.num_residuals(UNetConfig())  # at 4 resolutions 2 blocks and a layer before them, and the bottom
        13
    """
    return len(config.channels) * (config.blocks + 1) + 1
