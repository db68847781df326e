"""Training: state, step, parallelism, checkpoints, and the loop around them."""
