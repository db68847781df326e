"""Conditions that denoisers share: what they may be given, and embeddings of a label and of an interval."""

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.layers import Dense, timestep_embedding
from jaxdiff.nets.spec import DenoiserSpec
from jaxdiff.types import Array, Cond


def check_conditions(cfg: DenoiserSpec, cond: Cond, size: int) -> None:
    """Refuses conditions that the network would ignore or cannot read, and misses those it needs.

    Args:
      cfg: specification of the network.
      cond: its conditions.
      size: of the embedding of a label, which may be given in place of the label.

    Raises:
      ValueError: one line that names the condition and its shape.
    """
    label = (size,) if cond.label is not None and jnp.ndim(cond.label) == 2 else ()
    shapes = {
        "label": label if cfg.num_classes else None,
        "vector": (cfg.vector_dim,) if cfg.vector_dim else None,
        "context": (cfg.context_length or "L", cfg.context_dim) if cfg.context_dim else None,
        "image": ("H", "W", cfg.image_channels) if cfg.image_channels else None,
        "guidance": () if cfg.guidance_dim else None,
        "image_prompt": (cfg.image_prompt_dim,) if cfg.image_prompt_dim else None,
        "image_prompt_scale": () if cfg.image_prompt_dim else None,
    }
    optional = ("context_mask", "attention_edit") if cfg.context_dim else ()
    optional += ("end",) if cfg.takes_end else ()
    if cond.context is not None and cond.context_mask is not None:
        if jnp.shape(cond.context_mask) != jnp.shape(cond.context)[:2]:
            raise ValueError(
                f"cond.context_mask {jnp.shape(cond.context_mask)} must be of the tokens {jnp.shape(cond.context)[:2]}"
            )
    if cfg.takes_end and cond.end is not None and jnp.ndim(cond.end) != 1:
        raise ValueError(f"this network takes cond.end [B], and this one is {jnp.shape(cond.end)}")
    for name, value in cond._asdict().items():
        shape = shapes.get(name)
        if value is not None and shape is None and name not in optional:
            raise ValueError(f"this network takes no {name}: its config has no use for cond.{name}")
        if shape is None:
            continue
        wanted = f"cond.{name} [{', '.join(map(str, ('B', *shape)))}]"
        if value is None:
            raise ValueError(f"this network needs {wanted}")
        got = jnp.shape(value)[1:]
        if len(got) != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, got)):
            raise ValueError(f"this network needs {wanted}, and this one is {jnp.shape(value)}")


def embed_label(num_classes: int, label: Array, size: int, dtype) -> Array:
    """The learned embedding of labels, a submodule `class_embedding` of the module that calls this.

    Args:
      num_classes: labels are 0..num_classes, the last being the null label.
      label: int [B], or embeddings [B, size] in their place.
      size: of the embedding.
      dtype: of the computation.

    Returns:
      [B, size]; NaN for labels out of range.

    Raises:
      ValueError: labels of floats.
    """
    table = nn.Embed(num_classes + 1, size, dtype=dtype, name="class_embedding")
    if jnp.ndim(label) == 2:
        return jnp.asarray(label, dtype)
    if jnp.issubdtype(jnp.result_type(label), jnp.floating):
        raise ValueError("`cond.label` must be int [B]; of floats it is an embedding, [B, D]")
    return table(jnp.where(label < 0, num_classes + 1, label))  # what is below 0 would be counted from the end


def embed_interval(cfg: DenoiserSpec, t: Array, end: Array | None, waves: int, size: int) -> Array | float:
    """Embedding of the time from t back to `end`, [B, size]; 0 of networks that do not take it."""
    if not cfg.takes_end:
        return 0.0
    interval = jnp.asarray(t, jnp.float32) - (t if end is None else end)
    dtype = jnp.dtype(cfg.dtype)
    return EmbeddingMLP(size, dtype, name="interval_embedding")(timestep_embedding(interval, waves))


class EmbeddingMLP(nn.Module):
    """Two layers with a silu between them, named as published checkpoints name them.

    Attributes:
      features: of the output, and inside.
      dtype: of the computation.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, more: Array | None = None) -> Array:
        """x [B, D], and `more` [B, E], which a linear layer adds to it -> [B, features]."""
        if more is not None:
            x = x + Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="cond_proj")(more)
        x = nn.silu(Dense(self.features, dtype=self.dtype, name="linear_1")(x))
        return Dense(self.features, dtype=self.dtype, name="linear_2")(x)
