"""Reports on the clips of a data set: tables and metadata."""

import collections
import csv
import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vicreg_jax.data.datasets import pcm_cache
from vicreg_jax.data.prepared import reasons

TOO_SHORT = "too short"
NOT_FOUND = "not found"  # by the module audio, or in an archive
KNOWN_FAULT = "known fault"  # of the published data; never decoded
CLIPS_CSV = "clips.csv"  # id, split, seconds, loudness and note of every clip


class Report(NamedTuple):
  """The report on a clip.

  `reason`: why it was left out, or "". `note`: the oddity of a clip that was
  not: its kind, then a comma and how much.
  """

  id: str
  split: str
  reason: str
  num_samples: int
  dbfs: float  # RMS over the clip, in dB of full scale
  labels: list[int]  # positions of the labels that it has
  note: str


class Reports(NamedTuple):
  """The reports of all clips that a `base.Source` lists."""

  source: Any
  sample_rate: int
  reports: Sequence[Report]

  def kept(self) -> list[Report]:
    """The reports of clips that are not left out."""
    return [report for report in self.reports if not report.reason]

  def skipped(self) -> dict[str, str]:
    """{id: reason} of clips left out, by the source as well."""
    found = {r.id: r.reason for r in self.reports if r.reason}
    return dict(self.source.skipped) | found

  def notes(self) -> dict[str, str]:
    """{id: notes} of the clips that are kept."""
    clip_of = self._clips()
    return {
      r.id: "; ".join(filter(None, (clip_of[r.id].note, r.note)))
      for r in self.kept()
    }

  def metadata(self, how) -> dict[str, Any]:
    """The metadata for `Prepared`, with `how` the clips were decoded."""
    kept, clip_of = self.kept(), self._clips()
    samples, counts = collections.defaultdict(int), {}
    for report in kept:
      samples[report.split] += report.num_samples
      count_K = counts.setdefault(report.split, [0] * len(self.source.labels))
      for label in report.labels:
        count_K[label] += 1
    notes = itertools.chain(*(n.split("; ") for n in self.notes().values()))
    kinds = (note.split(",")[0] for note in notes if note)
    return {
      "labels": list(self.source.labels),
      "label_kind": self.source.label_kind,
      **how,
      "seconds": {s: n / self.sample_rate for s, n in samples.items()},
      "shortest": min(report.num_samples for report in kept),
      "skipped": dict(collections.Counter(self.skipped().values())),
      "noted": dict(collections.Counter(kinds)),
      "label_counts": counts,
      "tracks": len({clip_of[report.id].track for report in kept}),
    }

  def write(self, directory):
    """Writes the tables: skipped.csv, clips.csv and perhaps contents.csv."""
    kept, note_of = self.kept(), self.notes()
    skipped = self.skipped().items()
    _write_csv(directory / "skipped.csv", ["id", "reason"], skipped)
    rows = [
      (r.id, r.split, f"{r.num_samples / self.sample_rate:.3f}",
       f"{r.dbfs:.2f}", note_of[r.id])
      for r in kept
    ]  # fmt: skip
    columns = ["id", "split", "seconds", "dbfs", "note"]
    _write_csv(directory / CLIPS_CSV, columns, rows)
    if digest_of := self.source.contents:
      rows = [(r.id, r.split, digest_of[r.id], r.dbfs, r.note) for r in kept]
      path = directory / pcm_cache.CONTENTS_CSV
      _write_csv(path, pcm_cache.CONTENTS_COLUMNS, rows)

  def why_empty(self, crop: int) -> str:
    """Why no clip is left, and what to do."""
    skipped = self.skipped()
    counts = collections.Counter(skipped.values())
    text = "no clip is left"
    if counts:
      text += f"; left out: {reasons(counts)}"
    if TOO_SHORT in counts:
      longest = max(r.num_samples for r in self.reports if r.reason)
      seconds = longest / self.sample_rate
      text += (
        f". The longest of the short clips has {longest} samples"
        f" ({seconds:.2f} s at {self.sample_rate} Hz) and data.crop is {crop}:"
        " lower data.crop, or use longer clips"
      )
    elif counts:
      text += f". For example: {min(skipped)}"
    if NOT_FOUND in counts:
      text += (
        ". Is data.path a folder above the right one, or below? The README.md"
        " beside the data sets says which files it holds"
      )
    return text

  def _clips(self):
    clips = itertools.chain(*self.source.splits.values())
    return {clip.id: clip for clip in clips}


def _write_csv(path, header: Sequence[str], rows: Iterable[tuple]):
  text = io.StringIO(newline="")
  writer = csv.writer(text)
  writer.writerow(header)
  writer.writerows(sorted(rows))
  path.write_bytes(text.getvalue().encode())
