"""Options of Apache Beam, by which work is spread over machines."""


def parse(text: str, flag: str):
  """Beam's options from "runner=DirectRunner,key=value", as TFDS writes it.

  Raises:
    ValueError: Beam is not installed; names the flag that asks for it.
  """
  try:
    from apache_beam.options import pipeline_options
  except ImportError:
    raise ValueError(
      f"{flag}={text!r} needs Apache Beam: pip install 'vicreg_jax[beam]'"
    ) from None
  return pipeline_options.PipelineOptions(
    flags=[f"--{option}" for option in text.split(",")]
  )
