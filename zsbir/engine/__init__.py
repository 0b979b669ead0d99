"""Training: the loop, checkpoints and logs."""
