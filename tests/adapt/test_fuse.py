"""Gradient fusion: least squares, against numpy, and what averaging loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.adapt import fuse

RNG = np.random.default_rng(0)


def concept(rows=40, low=None):
    """Inputs, of a few directions where `low` is given, and a correction."""
    x = RNG.standard_normal((rows, 12))
    if low is not None:
        x = x[:, : len(low)] @ low
    return x.astype(np.float32), RNG.standard_normal((12, 5)).astype(np.float32)


def test_it_is_least_squares():
    concepts = [concept() for _ in range(3)]
    found = fuse.fused([fuse.gram(x) for x, _ in concepts], [d for _, d in concepts], ridge=0.0)
    x, y = (np.concatenate(parts) for parts in zip(*((x, x @ d) for x, d in concepts)))
    np.testing.assert_allclose(found, np.linalg.lstsq(x.astype(np.float64), y, rcond=None)[0], atol=1e-4)


def test_gram_matrices_are_added_up_over_batches():
    x, _ = concept(30)
    parts = sum(fuse.gram(part.reshape(2, 5, 12)) for part in np.split(x, 3))
    np.testing.assert_allclose(parts, x.astype(np.float64).T @ x, rtol=1e-5, atol=1e-5)


def test_concepts_of_other_inputs_are_all_kept_where_their_average_keeps_none():
    """Each at work in four directions of its own: fused, each does what it did; averaged, a third of it."""
    axes = np.linalg.qr(RNG.standard_normal((12, 12)))[0]
    concepts = [concept(low=axes[i : i + 4]) for i in (0, 4, 8)]
    found = fuse.fused([fuse.gram(x) for x, _ in concepts], [d for _, d in concepts], ridge=1e-6)
    average = sum(d for _, d in concepts) / 3
    for x, d in concepts:
        off = lambda change, x=x, d=d: float(np.square(x @ (np.asarray(change) - d)).mean() / np.square(x @ d).mean())
        assert off(found) < 1e-6 and off(average) > 0.3


def test_what_no_concept_sees_stays_as_it_was():
    x, d = concept()
    x[:, 6:] = 0
    found = fuse.fused([fuse.gram(x)], [d])
    np.testing.assert_allclose(found[6:], 0, atol=1e-6)
    np.testing.assert_allclose(found[:6], d[:6], atol=1e-2)


def test_other_matrices_compile_nothing_and_each_correction_has_its_own():
    run = jax.jit(fuse.fused)
    for _ in range(2):
        (x, d), (y, e) = concept(), concept()
        run([fuse.gram(x), fuse.gram(y)], [jnp.asarray(d), jnp.asarray(e)], 0.1 * len(x))
    assert run._cache_size() == 1
    with pytest.raises(ValueError, match="1 Gram matrices are not one for each of 2"):
        fuse.fused([fuse.gram(x)], [d, e])
