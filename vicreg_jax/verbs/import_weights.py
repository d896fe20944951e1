"""Makes a workdir of foreign weights: the verb `import`."""

from vicreg_jax.use.import_weights import import_weights


def run(args) -> int:
  """Makes the workdir, and prints what the file held."""
  print(f"{args.workdir}: {import_weights(args.file, args.workdir)}")
  return 0
