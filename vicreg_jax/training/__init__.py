"""One jitted, sharded step; the loop around it; checkpoints; logs."""
