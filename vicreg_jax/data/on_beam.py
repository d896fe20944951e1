"""Decodes on Apache Beam, which spreads work over machines."""

import json


def options(text: str, flag: str):
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


def examples(clips, decode, reports):
  """A transform that decodes clips; TFDS writes its output as records.

  Args:
    clips: with an `id`.
    decode: `decode(clip) -> (report, example)`; without an example the clip is
      left out.
    reports: the file for all reports, a line of JSON each.
  """
  import apache_beam as beam

  @beam.ptransform_fn
  def transform(pipeline):
    decoded = (
      pipeline
      | beam.Create(clips)
      # Else each worker would get one run of neighbours, decoded together.
      | beam.Reshuffle()
      | beam.Map(decode)
    )
    _ = (
      decoded
      | beam.MapTuple(lambda report, example: json.dumps(report))
      # Not by Beam's own files: their directory may not have brackets.
      | beam.combiners.ToList()
      | beam.Map(lambda lines: reports.write_text("\n".join(lines)))
    )
    return (
      decoded
      | beam.Filter(lambda result: result[1] is not None)
      | beam.MapTuple(lambda report, example: (report.id, example))
    )

  return transform()
