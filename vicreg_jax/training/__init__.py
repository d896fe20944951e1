"""One jitted, sharded step; the loop around it; checkpoints; what is logged."""
