"""DreamBooth: a few images of one thing are learned, and what its class looks like is not forgotten."""

from collections.abc import Callable

import jax.numpy as jnp


def dreambooth(loss_fn: Callable, prior_weight: float = 1.0, share: float | None = None) -> Callable:
    """Prior preservation around any objective (Ruiz et al. 2023, equation 2).

        L = mean L(instance) + lambda mean L(class),   each mean over its own examples

    Args:
      loss_fn: (params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), such as `denoising`.
      prior_weight: lambda, at least 0; 1 in the paper. Without images of the class there is nothing to weigh.
      share: of the class among all examples, in (0, 1), where that is known: examples are weighed by it and not by their
        number in the batch, so that the gradient is the same however a batch is divided; L is then the mean of many
        batches. None counts them in each batch.

    Returns:
      The same of batches with `batch["prior"]`, bool [B]: which examples are of the class, drawn by the model itself, and
      not of the instance. The mean of the loss is L; metrics add "instance" and "prior", the two means.

    Raises:
      ValueError: a negative weight, or no such share. From loss_fn: a batch that does not say which of its examples are
        which.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.objectives.dreambooth import dreambooth
        >>> rows = lambda params, extra, keys, batch: (batch["image"], (extra, {"loss": batch["image"]}))
        >>> loss_fn = dreambooth(rows, prior_weight=0.5)
        >>> batch = {"image": jnp.array([1.0, 3.0, 10.0]), "prior": jnp.array([False, False, True])}
        >>> loss, (_, metrics) = loss_fn(None, (), None, batch)
        >>> float(loss.mean()), float(metrics["instance"].mean()), float(metrics["prior"].mean())  # 2 + 0.5 * 10
        (7.0, 2.0, 10.0)
    """
    if prior_weight < 0:
        raise ValueError(f"prior_weight={prior_weight} must be at least 0")
    if share is not None and not 0 < share < 1:
        raise ValueError(f"share={share} must lie in (0, 1)")

    def with_prior(params, extra, keys, batch):
        if "prior" not in batch:
            raise ValueError("DreamBooth needs to know which examples are of the class: the batch has no `prior`")
        loss, (extra, metrics) = loss_fn(params, extra, keys, {name: x for name, x in batch.items() if name != "prior"})
        of = {"instance": ~batch["prior"], "prior": batch["prior"]}
        shares = (
            {"instance": 1 - share, "prior": share}
            if share is not None
            else {name: jnp.maximum(which.mean(), 1 / loss.shape[0]) for name, which in of.items()}
        )
        parts = {name: which * loss / shares[name] for name, which in of.items()}
        loss = parts["instance"] + prior_weight * parts["prior"]
        return loss, (extra, metrics | parts | {"loss": loss})

    return with_prior
