"""A fused LoRA trained to predict what each concept's own LoRA predicts, over all layers together."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import objectives
from jaxdiff.adapt.lora import Factors, Lora, merge
from jaxdiff.model import Model
from jaxdiff.seeds import key_of
from jaxdiff.types import Array, Cond


def matched(
    base: Model,
    lora: Lora,
    loras: Sequence[Lora],
    samples: Sequence[tuple[Array, Array]],
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    seed: int = 0,
    tick: Callable[[int], None] = lambda steps: None,
) -> Lora:
    """Trains a fused LoRA until the network predicts for each concept what it predicts with that concept's own LoRA.

        min_D  sum_k E |f(x_t, t, c_k; W + D) - f(x_t, t, c_k; W + D_k)|^2,   x_t of an image of concept k

    Layers that are solved one by one do not know of each other: each has an error where concepts want different outputs of
    the same input, and the errors of many layers add up. Together they have more room: later layers make up for it.

    Args:
      base: model whose U-Net is f with the parameters W, and whose text encoder encodes the empty text.
      lora: D before training, such as that of `adapt.fuse.fused`; its ranks stay.
      loras: D_k, one of each concept.
      samples: latents [N, H, W, C] of each concept, and their contexts [N, L, D]; as many of each concept.
      steps: number of steps of AdamW; one example in ten has the empty text.
      batch_size: number of examples of each concept in a step.
      learning_rate: highest rate; it falls to a twentieth along a cosine.
      seed: seed of noise, levels and choice of images.
      tick: called with 1 after each step.

    Returns:
      `Lora` with the paths, ranks and scales of `lora`; `lora` itself if `steps` is 0.
    """
    if not steps:
        return lora
    null = Cond(context=base.text_encoder([""])[0])
    student = lambda params, *args, keys=None: base.apply(params["fused"], *args)
    loss_fn = objectives.distillation(student, functools.partial(_teacher, base.apply), base.schedule, null, 0.1)
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, 0, steps, 0.05 * learning_rate)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.0))
    factors, update = {path: _balanced(*pair) for path, pair in lora.factors.items()}, _step(loss_fn, optimizer)
    state, frozen = optimizer.init(factors), (base.params, list(loras), lora.scale)
    images, contexts = (np.stack(each) for each in zip(*samples))
    rng, concepts = np.random.default_rng(seed), np.arange(len(samples))[:, None]
    for n in range(steps):
        chosen = rng.integers(images.shape[1], size=[len(samples), batch_size])
        keys = jax.random.fold_in(key_of(seed), n), n * chosen.size + np.arange(chosen.size)
        cond = Cond(context=np.concatenate(contexts[concepts, chosen]))
        batch = {"image": np.concatenate(images[concepts, chosen]), "cond": cond}
        factors, state = update(factors, state, frozen, keys, batch)
        tick(1)
    return lora._replace(factors=factors)


def _step(loss_fn, optimizer):
    """The compiled training step."""

    def mean_loss(factors, frozen, keys, batch):
        params, loras, scale = frozen
        whole = {"base": params, "loras": loras, "fused": merge(params, Lora(factors, scale))}
        return loss_fn(whole, (), keys, batch)[0].mean()

    @jax.jit
    def update(factors, state, frozen, keys, batch):
        key, index = keys
        grads = jax.grad(mean_loss)(factors, frozen, jax.vmap(jax.random.fold_in, (None, 0))(key, index), batch)
        changes, state = optimizer.update(grads, state, factors)
        return optax.apply_updates(factors, changes), state

    return update


def _teacher(apply, params, x_t, t, cond, keys=None):
    """The outputs with each concept's own LoRA, for its share of a batch that holds one concept after the other."""
    loras, share = params["loras"], x_t.shape[0] // len(params["loras"])
    of = lambda k: jax.tree.map(lambda leaf: leaf[k * share : (k + 1) * share], (x_t, t, cond))
    outputs = [apply(merge(params["base"], lora), *of(k))[0] for k, lora in enumerate(loras)]
    return jnp.concatenate(outputs), ()


def _balanced(down, up):
    """Factors of the same product and of equal norms, rank by rank, for which one learning rate is right."""
    downs, ups = jnp.linalg.norm(down, axis=0), jnp.linalg.norm(up, axis=1)
    nonzero = (downs > 0) & (ups > 0)
    ratio = jnp.where(nonzero, jnp.sqrt(ups / jnp.where(nonzero, downs, 1.0)), 1.0)
    return Factors(down * ratio[None], up / ratio[:, None])
