"""UniPC: against diffusers, and its integrals in float64; recursions and orders: test_recursions.py, test_table.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import solver_checks

from jaxdiff import samplers
from jaxdiff.samplers.unipc import _moment, _solve, unipc

CASES = {
    "unipc/bh1 to 1": (2, "bh1"),
    "unipc/bh2": (2, "bh2"),
    "unipc/bh2 to 1": (2, "bh2"),
    "unipc/order 1": (1, "bh2"),
    "unipc/order 3": (3, "bh2"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_whole_run_is_diffusers(case):
    solver_checks.assert_run_is_published(case, unipc(*CASES[case]))


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_the_moments_are_those_integrals(k):
    """By Gauss-Legendre quadrature in float64, from tiny steps to huge ones."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u, du = (nodes + 1) / 2, weights / 2
    h = np.array([1e-3, 0.03, 0.3, 0.99, 1.01, 3.0, 10.0])
    want = np.sum(h[:, None] * np.exp(-(1 - u) * h[:, None]) * u**k * du, 1)
    np.testing.assert_allclose(jax.jit(_moment, static_argnums=0)(k, jnp.float32(h)), want, rtol=3e-6)


@pytest.mark.parametrize("u", [[-0.7], [1.0, -1.3], [1.0, -0.8, -2.1]])
def test_the_weights_solve_their_equations(u):
    b = [0.3, -1.2, 0.7][: len(u)]
    want = np.linalg.solve(np.vander(u, increasing=True).T, b)
    np.testing.assert_allclose(_solve(u, b), want, rtol=1e-12)


@pytest.mark.parametrize("order, variant", [(1, "bh2"), (3, "bh1")])
def test_all_ends_work(order, variant):
    solver_checks.assert_all_ends_work(unipc(order, variant))


def test_chunks_are_the_whole():
    solver_checks.assert_chunks_are_the_whole(unipc())


@pytest.mark.parametrize("order", [1, 2, 3])
def test_other_values_do_not_recompile(order):
    first, *later = solver_checks.count_traces(lambda _: unipc(order), 0, 1, 2)
    assert first > 0 and later == [0, 0]


def test_other_orders_and_variants_are_refused():
    with pytest.raises(ValueError, match="`order`=4 must be 1, 2 or 3"):
        unipc(4)
    with pytest.raises(ValueError, match="did you mean 'bh2'"):
        unipc(variant="b2")


def test_the_prediction_is_that_at_x_before_correction():
    levels, x_T = np.array([900, 600, 300, 1]), jnp.ones([1, 2])
    collect = lambda state, prediction: (state.x, prediction.x0)
    _, (xs, x0s) = samplers.sample(None, unipc(), solver_checks.toy, solver_checks.STABLE, levels, x_T, collect=collect)
    np.testing.assert_allclose(x0s[1], solver_checks.toy(xs[0], 600).x0, rtol=1e-4)
