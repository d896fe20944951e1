"""The verbs of `python -m vicreg_jax`, one a file, and their options.

Each has `run(args)`, which prints, and returns an exit code.
"""

EXIT_LEFT_OUT = 3  # complete, but files were left out
