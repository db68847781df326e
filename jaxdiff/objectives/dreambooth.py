"""DreamBooth: fine-tuning on a few images of a subject with prior preservation of its class."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiff.arguments import AT_LEAST_0, check_number


def dreambooth(loss_fn: Callable, prior_weight: float = 1.0, prior_fraction: float | None = None) -> Callable:
    """Adds prior preservation to an objective (Ruiz et al. 2023, equation 2).

        L = mean L(instance) + lambda mean L(class),   each mean over its own examples

    Args:
      loss_fn: (params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), such as `denoising`.
      prior_weight: lambda, at least 0; 1 in the paper. Without images of the class it has no effect.
      prior_fraction: fraction of images of the class among all examples, in (0, 1), if it is constant: losses are divided
        by it instead of by the numbers in the batch, so that the gradient does not depend on how a batch is divided; L is
        then the mean over many batches. None counts them in each batch.

    Returns:
      A loss_fn of batches with `batch["prior"]`, bool [B]: True for images of the class, False for the instance. The mean
      of the loss is L; metrics add "instance" and "prior", the two means.

    Raises:
      ValueError: a prior_weight that is negative or not finite, or a prior_fraction outside of (0, 1). From loss_fn: a
        batch without "prior".

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.objectives.dreambooth import dreambooth
        >>> loss_fn = lambda params, extra, keys, batch: (batch["image"], (extra, {"loss": batch["image"]}))
        >>> loss_fn = dreambooth(loss_fn, prior_weight=0.5)
        >>> batch = {"image": jnp.array([1.0, 3.0, 10.0]), "prior": jnp.array([False, False, True])}
        >>> loss, (_, metrics) = loss_fn(None, (), None, batch)
        >>> float(loss.mean()), float(metrics["instance"].mean()), float(metrics["prior"].mean())  # 2 + 0.5 * 10
        (7.0, 2.0, 10.0)
    """
    check_number("prior_weight", prior_weight, *AT_LEAST_0)
    if prior_fraction is not None:
        check_number("prior_fraction", prior_fraction, "lie in (0, 1)", lambda x: (x > 0) & (x < 1))

    def with_prior(params, extra, keys, batch):
        if "prior" not in batch:
            raise ValueError("DreamBooth needs batch['prior'], which marks the images of the class")
        loss, (extra, metrics) = loss_fn(params, extra, keys, {name: x for name, x in batch.items() if name != "prior"})
        masks = {"instance": ~batch["prior"], "prior": batch["prior"]}
        fractions = (
            {"instance": 1 - prior_fraction, "prior": prior_fraction}
            if prior_fraction is not None
            else {name: jnp.maximum(mask.mean(), 1 / loss.shape[0]) for name, mask in masks.items()}
        )
        terms = {name: mask * loss / fractions[name] for name, mask in masks.items()}
        loss = terms["instance"] + prior_weight * terms["prior"]
        return loss, (extra, metrics | terms | {"loss": loss})

    return with_prior
