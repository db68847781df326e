"""Work over batches: what an example gets does not depend on the batches."""

import jax
import numpy as np
import pytest

from jaxdiff.sharding import over_batches


@pytest.mark.parametrize("batch_size", [8, 16, 32])
def test_each_example_has_its_own_row_and_key(batch_size):
    examples = {"a": np.arange(21, dtype=np.float32), "b": 10 * np.arange(21)}

    def of_batch(keys, batch):
        assert len(batch["a"].sharding.device_set) == jax.local_device_count() == 8
        assert batch["a"].shape == keys.shape == (batch_size,)
        return {"sum": batch["a"] + batch["b"], "noise": jax.vmap(jax.random.normal)(keys)}

    said = over_batches(of_batch, 21, batch_size, seed=3, examples=examples)
    np.testing.assert_array_equal(said["sum"], 11 * np.arange(21))
    expected = [jax.random.normal(jax.random.fold_in(jax.random.key(3), i)) for i in range(21)]
    np.testing.assert_array_equal(said["noise"], expected)
