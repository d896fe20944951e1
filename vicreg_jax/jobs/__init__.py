"""The jobs of `python -m vicreg_jax.main`, one a file."""
