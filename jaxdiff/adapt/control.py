"""ControlNet: conditions a trained network on an image, by a trainable copy of its encoder (Zhang et al. 2023).

With z_1, ..., z_n the skips and the bottom features of the U-Net, D its decoder, and r_ki the residuals of the k-th control
branch (see `jaxdiff.nets.controlnet`):

(1)  eps = D(z_1 + sum_k s_k1 r_k1, ..., z_n + sum_k s_kn r_kn)

The branches have parameters of their own beside the network's, so that training differentiates by params["control"] only.
At initialisation r = 0, and the network's output is unchanged.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.denoise import network
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.nets.unet_config import UNetConfig, at
from jaxdiff.types import Apply, Array, Cond, rows

_DECODER = ("up_blocks_", "conv_norm_out", "conv_out")  # layers of a U-Net that are not in its encoder


@functools.cache
def add_control(apply_unet: Apply, *apply_controls: Apply) -> Apply:
    """Network with control branches, equation (1): apply functions -> apply function.

    Its condition has the control input as `cond.control`, and s as `cond.control_scale`, float [B], or [B, n] with one per
    residual, see `guess_scales`; None means 1. The branches get the other conditions as well, except for an
    attention_edit, which is applied in the network only. Without a control input no branch runs. For the unconditional half
    of guidance the scale may be 0.

    Args:
      apply_unet: apply function of a `UNet`, from `jaxdiff.network`.
      *apply_controls: apply functions of `ControlNet`s, likewise. With several, params["control"], cond.control and
        cond.control_scale are tuples of that length; a branch whose control input is None does not run, and a scale of None
        means 1.

    Returns:
      apply(params, x_t, t, cond=None, keys=None), as from `jaxdiff.network`, with params {"unet": ..., "control": ...}.
      Equal arguments give the same function.

    Raises:
      ValueError: no branch; when called, conditions that are not one per branch, or of other shapes.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.adapt import control
        >>> from jaxdiff.nets.controlnet import ControlConfig, ControlNet
        >>> shape = jaxdiff.UNetConfig(channels=(8,), blocks=1, attention=(), mid_attention=False, groups=4)
        >>> unet, config = jaxdiff.UNet(shape), ControlConfig(shape, embedding=(4, 8))
        >>> x, cond = jnp.ones([1, 8, 8, 3]), jaxdiff.Cond(control=jnp.ones([1, 16, 16, 3]))
        >>> base = jax.jit(unet.init)(jax.random.key(0), x, jnp.ones([1]))["params"]
        >>> params = {"unet": base, "control": control.init(jax.random.key(1), config, base)}
        >>> apply = control.add_control(jaxdiff.network(unet), jaxdiff.network(ControlNet(config)))
        >>> output, _ = jax.jit(apply)(params, x, 500, cond)
        >>> bool((output == jax.jit(jaxdiff.network(unet))(base, x, 500)[0]).all())  # at initialisation
        True
    """
    if not apply_controls:
        raise ValueError("add_control needs a control branch: network(ControlNet(config))")

    def apply(params, x_t, t, cond=None, keys=None):
        if cond is None or cond.control is None:
            return apply_unet(params["unet"], x_t, t, cond, keys=keys)
        per_branch = functools.partial(_per_branch, len(apply_controls))
        residuals = [] if cond.residuals is None else [tuple(cond.residuals)]
        bare = cond._replace(control=None, control_scale=None, residuals=None)
        branches = zip(
            apply_controls,
            per_branch('params["control"]', params["control"]),
            per_branch("cond.control", cond.control),
            per_branch("cond.control_scale", cond.control_scale),
        )
        for i, (branch, branch_params, control_input, scale) in enumerate(branches):
            if control_input is not None:
                branch_cond = bare._replace(control=control_input, attention_edit=None)
                output, _ = branch(branch_params, x_t, t, branch_cond, keys=_branch_keys(keys, i))
                residuals.append(_scaled(output, scale))
        return apply_unet(params["unet"], x_t, t, bare._replace(residuals=_summed(residuals)), keys=keys)

    return apply


def _per_branch(count, name, value):
    """One value per branch."""
    several = isinstance(value, tuple | list)
    if count == 1 and not several:
        return (value,)
    if value is None:
        return (None,) * count
    if count == 1 or not several or len(value) != count:
        expected = "one and no tuple" if count == 1 else f"a tuple of {count}"
        raise ValueError(f"{name} must be {expected} for {count} control branch{'es' * (count > 1)}")
    return value


def _branch_keys(keys, i):
    """Keys of the i-th branch; with the network's keys its layers, which have the same names, would drop the same units."""
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


def _summed(residuals):
    """Sum over branches of the residuals at each join; None without branches."""
    counts = {len(branch) for branch in residuals}
    if len(counts) > 1:
        raise ValueError(f"control branches of different networks: they have {sorted(counts)} residuals")
    return tuple(map(sum, zip(*residuals))) if residuals else None


@functools.partial(jax.tree_util.register_dataclass, data_fields=("params",), meta_fields=("net", "condition"))
@dataclasses.dataclass(frozen=True)
class Control:
    """Trained ControlNet; a pytree whose leaves are its parameters.

    Attributes:
      net: the module; static.
      params: its parameters.
      condition: kind of its control inputs, such as "edges", see `jaxdiff.data.control_inputs`; static.

    Example::

        >>> import jax
        >>> from jaxdiff import UNetConfig
        >>> from jaxdiff.adapt import control
        >>> from jaxdiff.nets.controlnet import ControlConfig, ControlNet
        >>> trained = control.Control(ControlNet(ControlConfig(UNetConfig())), {"bias": 1.0}, "edges")
        >>> double = jax.tree.map(lambda leaf: 2 * leaf, trained)
        >>> double.params, double.condition, double.net == trained.net
        ({'bias': 2.0}, 'edges', True)
    """

    net: ControlNet
    params: Any
    condition: str


def with_controls(
    apply_unet: Apply, params, controls: Sequence[Control], network: Callable = network
) -> tuple[Apply, Any]:
    """Network with trained ControlNets, and its parameters; without any, both are returned as they are.

    Args:
      apply_unet: apply function of a `UNet`, from `jaxdiff.network`.
      params: its parameters.
      controls: any number.
      network: makes an apply function of a ControlNet; `jaxdiff.network`, or one with other network times.
    """
    if not controls:
        return apply_unet, params
    branch_params = tuple(control.params for control in controls)
    apply = add_control(apply_unet, *(network(control.net) for control in controls))
    return apply, {"unet": params, "control": branch_params if len(branch_params) > 1 else branch_params[0]}


def check(config: ControlConfig, params, base_params) -> None:
    """Raises ValueError if a ControlNet's parameters are not of this config and base; names the first such layer."""
    expected, actual = _expected(config, flatten_dict(base_params, sep="/")), flatten_dict(params, sep="/")
    for path in sorted(expected.keys() | actual.keys()):
        needs, has = (_shape(flat, path) for flat in (expected, actual))
        if needs != has:
            raise ValueError(
                f"this ControlNet is of another network: {path} must be {needs} for this one, and is {has} in it"
            )


def _shape(flat, path):
    return tuple(flat[path].shape) if path in flat else "missing"


def init(key: Array, config: ControlConfig, base_params):
    """Parameters of a `ControlNet` that is a trainable copy of a network's encoder, and changes nothing yet.

    Args:
      key: random key, for the layers that embed the control input.
      config: of the ControlNet, with the base's `UNetConfig`.
      base_params: of the `UNet`, a tree of dicts.

    Returns:
      Parameters, float32: those of the encoder are copies, the convolutions at the joins with the network are zero.

    Raises:
      ValueError: the base is not a network of that config; the first layer with another shape is named.

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
    base = flatten_dict(base_params, sep="/")
    _expected(config, base)  # raises where they do not fit
    example = _example(config, _channels(config, base))
    fresh = flatten_dict(jax.jit(ControlNet(config).init)(key, *example)["params"], sep="/")
    # Copies in memory, too: training donates the branch's buffers, and the base must keep its own.
    return unflatten_dict({path: jnp.array(base.get(path, leaf), leaf.dtype) for path, leaf in fresh.items()}, sep="/")


def _expected(config, base):
    """Shapes of a ControlNet's parameters by their paths.

    Raises:
      ValueError: the base is not a network of the config.
    """
    expected = shapes(config, _channels(config, base))
    for path in sorted(base.keys() | expected.keys()):
        has, needs = (_shape(flat, path) for flat in (base, expected))
        if has != needs and not path.startswith(("controlnet_", *_DECODER)):
            raise ValueError(
                f"the base is not a network of this config: {path} is {has} in it, and {needs} by the config"
            )
    return expected


@functools.cache
def shapes(config: ControlConfig, channels: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a ControlNet's parameters by their paths, for noisy images of so many channels."""
    params = jax.eval_shape(ControlNet(config).init, jax.random.key(0), *_example(config, channels))["params"]
    return flatten_dict(params, sep="/")


def _channels(config, base):
    """Channels of the noisy image."""
    cfg, first = config.unet, "conv_in/kernel"
    channels = (base[first].shape[-2] if first in base else 0) // cfg.patch**2 - cfg.image_channels
    if channels < 1:
        raise ValueError(
            f"the base is not a network of this config: {first} does not have the channels for patch={cfg.patch} and "
            f"image_channels={cfg.image_channels}"
        )
    return channels


def _example(config, channels):
    """Arguments with which a ControlNet can be initialised: the smallest noisy image, a time and a condition."""
    cfg = config.unet
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
    """Scales of guess mode, in which the control input alone determines the image and the prompt is empty.

        s_i = scale 10^(-1 + (i - 1) / (count - 1)),   i = 1, ..., count        published code of ControlNet, guess mode

    Residuals of the finest skips are scaled down most. In this mode the unconditional half of guidance has scale 0.

    Args:
      scale: of the bottom features, the last residual. Traced.
      count: n, see `num_residuals`.

    Returns:
      float32 [count], one row of a `cond.control_scale` [B, n].

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided
        >>> from jaxdiff.adapt import control
        >>> scales = jnp.tile(control.guess_scales(1.0, 3)[None], (2, 1))  # for two images
        >>> [[round(float(s), 3) for s in row] for row in scales]
        [[0.1, 0.316, 1.0], [0.1, 0.316, 1.0]]
        >>> x = jnp.ones([2, 32, 32, 3])
        >>> guided = Guided(Cond(control=x, control_scale=scales), Cond(control=x, control_scale=0 * scales))
    """
    return scale * jnp.logspace(-1, 0, count)


def num_residuals(config: UNetConfig) -> int:
    """Number of residuals that a U-Net takes: n, one per skip and one for the bottom features.

    Args:
      config: of the `UNet`.

    Example::

        >>> from jaxdiff import UNetConfig
        >>> from jaxdiff.adapt import control
        >>> control.num_residuals(UNetConfig())  # 4 resolutions of 2 blocks and one more layer each, and the bottom
        13
    """
    return sum(at(config.blocks, level) + 1 for level in range(len(config.channels))) + 1
