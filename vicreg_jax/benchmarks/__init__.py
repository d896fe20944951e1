"""One benchmark a module: `add_arguments(parser)` and `run(args)`.

`python -m vicreg_jax.bench` is their door. Their docstrings are their help.
"""
