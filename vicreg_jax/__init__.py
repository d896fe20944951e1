"""Self-supervised music representations with VICReg and CLMR, in JAX."""
