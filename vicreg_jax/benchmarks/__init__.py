"""The benchmarks of `python -m vicreg_jax.bench`, by name."""
