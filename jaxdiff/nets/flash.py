"""Flash attention on TPUs, by the kernel that comes with jax: scores live in on-chip memory, a block at a time.

(1)  Dao et al. 2022, algorithm 1; the kernel is `jax.experimental.pallas.ops.tpu.flash_attention`, with its gradients
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdiff.types import Array

LANES = 128  # that lengths are padded to, and heads of more channels than that
BLOCK = 512  # queries, and keys, of a block, where they divide the length
FEWEST = 1024  # queries, and keys, from which on it is the faster
BATCH, HEADS = ("data", "fsdp", "batch"), ("tensor",)  # axes of a mesh that split the batch, and the heads


def flash_attention(q_BxQxHxD: Array, k_BxKxHxD: Array, v_BxKxHxD: Array) -> Array:
    """softmax(q k^T / sqrt(D)) v without [Q, K] in memory, forward and backward, equation (1).

    On a mesh in which jax splits arrays by itself (`jax.set_mesh`), each device works on its own examples and heads, for
    the compiler cannot split a kernel.

    Args:
      q_BxQxHxD: queries.
      k_BxKxHxD: keys.
      v_BxKxHxD: values.

    Returns:
      [B, Q, H, D], dtype of the values. It has no forward mode.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return _on_device(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD)
    split = PartitionSpec(_fitting(mesh, BATCH, q_BxQxHxD.shape[0]), None, _fitting(mesh, HEADS, q_BxQxHxD.shape[2]))
    specs = {
        "in_specs": split,
        "out_specs": split,
        "check_vma": False,
    }  # the kernel does not say over which axes it varies
    return jax.shard_map(_on_device, mesh=mesh, **specs)(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD)


def _fitting(mesh, names, size):
    """Those axes of the mesh that together divide a size."""
    found = []
    for name in names:
        if name in mesh.axis_names and size % mesh.shape[name] == 0:
            found.append(name)
            size //= mesh.shape[name]
    return tuple(found) or None


def _on_device(q, k, v):
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel  # here, because it takes a second

    (B, Q, _, D), K = q.shape, k.shape[1]
    q, k, v = (_padded(x.swapaxes(1, 2)) for x in (q, k, v))
    segments = None
    if (Q, K) != (q.shape[2], k.shape[2]):  # what was added is of another segment, which is not attended to
        ids = (jnp.broadcast_to(jnp.arange(x.shape[2]) >= length, (B, x.shape[2])) for x, length in ((q, Q), (k, K)))
        segments = kernel.SegmentIds(*(one.astype(jnp.int32) for one in ids))
    rows, columns = (next(size for size in (BLOCK, 256, LANES) if x.shape[2] % size == 0) for x in (q, k))
    blocks = kernel.BlockSizes(
        block_b=1,
        block_q=rows,
        block_k_major=columns,
        block_k=columns,
        block_q_major_dkv=rows,
        block_k_major_dkv=columns,
        block_q_dkv=rows,
        block_k_dkv=columns,
        block_q_dq=rows,
        block_k_major_dq=columns,
        block_k_dq=columns,
    )
    out = kernel.flash_attention(q, k, v, segment_ids=segments, sm_scale=D**-0.5, block_sizes=blocks)
    return out[:, :, :Q, :D].swapaxes(1, 2)


def _padded(x_BxHxLxD):
    L, D = x_BxHxLxD.shape[2:]
    widths = (0, 0), (0, 0), (0, -L % LANES), (0, -D % LANES if D > LANES else 0)
    return jnp.pad(x_BxHxLxD, widths)
