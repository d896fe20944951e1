"""The TFDS builder that every data set of this package shares.

A data set is described before anything is decoded, as a `Source`; the base
class decodes it once, on all cores, into TFDS records. To add one, subclass
`ClipBuilder` (or `OfficialBuilder`, for a published set), set VERSION and list
the clips in `source`; `README.md` beside this module names the other places to
edit:

    class Tones(ClipBuilder, skip_registration=True):
      VERSION = tfds.core.Version("1.0.0")  # raise it when the clips change

      @classmethod
      def source(cls, data):  # data: the config's `data` section
        def clip(split, index):
          return Clip(
            id=f"{split}/{index}",  # unique in the data set, and stable
            track=f"{split}/{index}",  # clips of one piece share a track
            load=functools.partial(render, data.seed, split, index),
            labels=np.array([1, 0], np.uint8),  # [K] of 0 and 1
          )
        return Source(
          name="tones",
          identity={"seed": data.seed, "sizes": list(data.sizes)},
          splits={"train": [clip("train", i) for i in range(data.sizes[0])]},
          labels=("high", "low"),
          label_kind="multi",
        )

`load()` gives float32 [T] at `data.sample_rate`, or raises `AudioError`, which
skips and reports the clip; `audio.reading` collects its notes on a clip that
stays. `load` runs in a thread, or is pickled and runs elsewhere (`data.beam`):
it must not share state. `identity` is anything that JSON can write; with sample
rate and crop it names the prepared directory, so it must have everything that
the records depend on.

The records keep 16-bit PCM as bytes: TFDS's own Audio feature writes int16 as
varints, three times the size and thirteen times slower to write.
"""

import abc
import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from vicreg_jax.data import audio, on_beam
from vicreg_jax.data.datasets import pcm_cache, reports
from vicreg_jax.data.prepared import (
  Prepared,
  explain_damage,
  glob,
  quiet_tfds,
)
from vicreg_jax.data.threads import map_in_order

_BEAM_REPORTS = "reports-"
# Part of every prepared directory's name: raise it when the records change.
_FORMAT = 2
_AHEAD_SECONDS = 600.0  # of sound; longer clips are not decoded by threads


class Clip(NamedTuple):
  """One clip before it is decoded; see the module's docstring."""

  id: str
  track: str
  load: Callable[[], np.ndarray]
  labels: np.ndarray
  note: str = ""  # see reports.Report


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set before it is decoded; see the module's docstring.

  `label_kind` is "multi", "single" or "none". `skipped` (id -> reason) has the
  clips that are left out before decoding. `former` are identities of the same
  data in older versions of this package. If clips are files, `contents` has
  their SHA-256 by id: their sound is taken from older records of the data set,
  or kept in the directory `kept_at` until all is prepared.
  """

  name: str
  identity: Any
  splits: Mapping[str, Sequence[Clip]]
  labels: tuple[str, ...]
  label_kind: str
  skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
  former: Sequence[Any] = ()
  contents: Mapping[str, str] = dataclasses.field(default_factory=dict)
  kept_at: str = ""


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Decodes a `Source` into TFDS records; subclasses give `source`."""

  VERSION = tfds.core.Version("1.0.0")
  # TFDS looks beside the code for checksums of downloads. There are none, and
  # its search imports importlib_resources, which it does not install.
  code_path = None

  @classmethod
  @abc.abstractmethod
  def source(cls, data) -> Source:
    """The source that `data`, the config's section, names; decodes nothing."""

  @classmethod
  def get(cls, data) -> Prepared:
    """The data set, decoded if necessary."""
    return cls(data).prepare()

  def __init__(self, data):
    """Lists the source; nothing is decoded before `prepare`."""
    self._source = self.source(data)
    _check_ids(self._source)
    where = f" in data.path={data.path}" if data.path else ""
    self._called = f"{self.name}, {self._source.name}{where}"
    self._sample_rate = int(data.sample_rate)
    self._crop = int(data.crop)
    self._beam = data.beam
    self._reports = []
    self._store = None
    self._how = {"format": _FORMAT, "sample_rate": self._sample_rate}
    self._dir = os.path.expanduser(data.dir)
    config = tfds.core.BuilderConfig(name=self._config_name())
    path = os.path.join(self._dir, self.name, config.name, str(self.VERSION))
    with quiet_tfds(), explain_damage(path):  # it reads what is there
      super().__init__(data_dir=self._dir, config=config)

  def _config_name(self):
    return f"{self._source.name}-{self._digest(self._source.identity)}"

  def _digest(self, identity):
    whole = [_FORMAT, self._sample_rate, self._crop, identity]
    text = json.dumps(whole, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

  def prepare(self) -> Prepared:
    """Decodes the clips unless they are prepared, and opens the result.

    TFDS writes to a directory of another name and renames it at the end, so
    an interrupted run leaves nothing that could be opened.
    """
    with quiet_tfds():
      if not self.is_prepared():
        self._decode_all()
        # What killed runs have left. One that still runs will find this data.
        for path in glob(self.data_path.parent, f"incomplete.*_{self.VERSION}"):
          path.rmtree(missing_ok=True)
        if self._store:
          self._store.remove()
    return Prepared.open(self.data_dir)

  def _decode_all(self):
    total = sum(map(len, self._source.splits.values()))
    self._progress = tqdm(
      total=total, desc=f"prepare {self.name}", unit="clip", disable=None
    )
    config = tfds.download.DownloadConfig()
    if self._beam:
      config.beam_options = on_beam.options(self._beam, "data.beam")
    kept_at = self._source.kept_at
    if kept_at and "://" not in kept_at and not self._beam:
      self._store = pcm_cache.Store(kept_at, self._how, total)
    try:
      with self._progress:
        self.download_and_prepare(download_config=config)
    except (OSError, tf.errors.OpError, RuntimeError) as error:
      cause = error.__cause__ if isinstance(error, RuntimeError) else error
      if not isinstance(cause, (OSError, tf.errors.OpError)):
        raise
      # Another process may just have renamed the same data into place.
      if not (self.data_path / "dataset_info.json").exists():
        text = " ".join(str(error).split())
        raise ValueError(
          f"data.dir={self._dir}: cannot write the prepared data ({text}). Free"
          " disk space there, or give another directory"
        ) from error
    except ValueError as error:
      empty = re.search(r"examples is 0 for split (\w+)", str(error))
      if not (self._beam and empty):
        raise
      raise ValueError(
        f"{self._called}: no clip is left in split {empty[1]!r}, which "
        "Apache Beam cannot write: prepare with data.beam='', which leaves the "
        "split out and says why"
      ) from error

  def _info(self):
    features = {
      "id": tfds.features.Text(),
      "track": tfds.features.Text(),
      "samples": tfds.features.Tensor(shape=(), dtype=tf.string),
      "labels": tfds.features.Tensor(
        shape=(len(self._source.labels),), dtype=np.uint8
      ),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description="Mono clips as little-endian 16-bit PCM, with labels.",
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    if self._beam:
      return {
        split: on_beam.examples(
          clips,
          functools.partial(_decode, split, self._crop),
          self.data_path / f"{_BEAM_REPORTS}{split}",
        )
        for split, clips in self._source.splits.items()
        if clips
      }
    generators = {}
    for split, clips in self._source.splits.items():
      examples = self._generate_examples(split, clips)
      # TFDS cannot write an empty split, and whether one is empty shows only
      # when its clips have been decoded.
      first = list(itertools.islice(examples, 1))
      if first:
        generators[split] = itertools.chain(first, examples)
    if not generators:
      raise ValueError(f"{self._called}: {self._made().why_empty(self._crop)}")
    return generators

  def _generate_examples(self, split, clips):
    digest_of, done = self._source.contents, set()
    for report, example in self._earlier(split, clips):
      done.add(report.id)
      self._reports.append(report)
      if example:
        yield report.id, example
    clips = [clip for clip in clips if clip.id not in done]
    self._progress.update(len(done))

    decode = functools.partial(_decode, split, self._crop, find=self._kept)
    ahead = functools.partial(decode, most_seconds=_AHEAD_SECONDS)
    # In threads, as libsndfile and soxr release the GIL.
    results = map_in_order(ahead, clips, os.cpu_count(), 2 * os.cpu_count())
    for (report, example), clip in zip(results, clips):
      if report.reason == audio.TOO_LONG:
        # One at a time: hours take gigabytes.
        report, example = decode(clip)
      self._progress.update()
      self._reports.append(report)
      if example:
        if self._store and digest_of.get(report.id):
          pcm = example["samples"]
          sound = pcm_cache.Sound(pcm, report.dbfs, report.note)
          self._store.add(digest_of[report.id], sound)
        yield report.id, example

  def _kept(self, clip):
    """The sound of a clip that a killed run has decoded, or None."""
    digest = self._source.contents.get(clip.id)
    return self._store.get(digest) if self._store and digest else None

  def _earlier(self, split, clips):
    """(report, example) of clips in records of an earlier version."""
    clips_of = collections.defaultdict(list)
    for clip in clips:
      if digest := self._source.contents.get(clip.id):
        clips_of[digest].append(clip)
    if not clips_of:
      return
    for digest, sound in pcm_cache.earlier(
      os.path.join(self._dir, self.name),
      str(self.VERSION),
      self._how,
      clips_of.keys(),
    ):
      for clip in clips_of.pop(digest, ()):
        yield _example(split, self._crop, clip, sound)

  def _download_and_prepare(self, dl_manager, download_config):
    super()._download_and_prepare(dl_manager, download_config)
    if self._beam:
      self._take_from_beam()
    made = self._made()
    # TFDS writes the metadata beside the records right after this.
    self.info.metadata.update(made.metadata(self._how | {"crop": self._crop}))
    made.write(self.data_path)

  def _made(self):
    return reports.Reports(self._source, self._sample_rate, self._reports)

  def _take_from_beam(self):
    """Names the records that Beam has written, and reads its reports."""
    # TFDS renames what it has written, but finds nothing below brackets.
    for path in glob(self.data_path, "incomplete.*.*"):
      whole = self.data_path / path.name.split(".", 2)[2]
      if not whole.exists():
        path.rename(whole)
    for path in glob(self.data_path, f"{_BEAM_REPORTS}*"):
      lines = path.read_text().splitlines()
      self._reports += [reports.Report(*json.loads(line)) for line in lines]
      path.unlink()

  def _log_download_bytes(self):
    """TFDS's banner: nothing is downloaded, and we have our own bar."""

  _log_download_done = _log_download_bytes


def _check_ids(source):
  """Raises ValueError if two clips have one id, which TFDS cannot write."""
  clips = itertools.chain.from_iterable(source.splits.values())
  id_, times = collections.Counter(c.id for c in clips).most_common(1)[0]
  if times > 1:
    raise ValueError(
      f"{source.name}: {times} clips are called {id_!r}: rename a file, or get"
      " the published table again"
    )


def _decode(split, crop, clip, most_seconds=np.inf, find=lambda clip: None):
  """(report, example) of a clip; the example is None if it is left out.

  `find` has a clip's `pcm_cache.Sound`, if that is there.
  """
  sound = find(clip)
  if sound is None:
    try:
      sound = pcm_cache.decode(clip.load, most_seconds)
    except audio.AudioError as error:
      return _report(split, clip)._replace(reason=error.reason), None
  return _example(split, crop, clip, sound)


def _example(split, crop, clip, sound):
  report = _report(split, clip)._replace(num_samples=sound.num_samples)
  if sound.num_samples < crop:
    return report._replace(reason=reports.TOO_SHORT), None
  return report._replace(dbfs=sound.dbfs, note=sound.note), {
    "id": clip.id,
    "track": clip.track,
    "samples": sound.pcm,
    "labels": np.asarray(clip.labels, np.uint8),
  }


def _report(split, clip):
  labels = np.flatnonzero(np.asarray(clip.labels, np.uint8)).tolist()
  return reports.Report(clip.id, split, "", 0, pcm_cache.SILENCE_DB, labels, "")
