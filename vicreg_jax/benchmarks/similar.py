"""`similar` over many vectors: the exact search against an index of LanceDB.

The vectors lie in clusters: direction i of their centres has the deviation
1 / i, rows lie half as far about their centre, and all is turned at random.
`command` is a whole process, its start included; `question` is one more in a
running process. `recall_at_10` is of 100 rows, against the exact search.
"""

import functools
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vicreg_jax.benchmarks.support import timing
from vicreg_jax.library import index as indexes
from vicreg_jax.library import neighbours
from vicreg_jax.library.tables import Tables

_CENTRES, _SIZE, _ROWS, _TOP = 1_000, 512, 20_000, 10


def add_arguments(parser):
  """The benchmark's own flags."""
  parser.add_argument(
    "--vectors", type=int, default=100_000, help=f"of {_SIZE} numbers"
  )


def run(args) -> timing.Report:
  """Builds the index once; then both searches answer in turn."""
  results, notes = {}, []
  with tempfile.TemporaryDirectory() as directory:
    path, where = f"{directory}/rows.parquet", f"{directory}/index"
    write(path, args.vectors)
    flags, searches = {"exact": []}, {"exact": functools.partial(_exact, path)}
    try:
      taken = timing.clock(_index, where, path)
      index = _index(where, path)
      recall = index.recall(Tables([path]).tracks())
      results["build"] = {
        "s": taken.wall,
        "cpu_s": taken.cpu,
        "recall_at_10": recall,
      }
      flags["index"] = [f"--index={where}"]
      searches["index"] = index.search
    except ValueError as e:
      notes.append(str(e))
    runs = {}
    name = "0.ogg"
    query_1xD = Tables([path]).of(name).y_NxD
    for kind, search in searches.items():
      runs[f"command, {kind}"] = functools.partial(
        _command, path, name, *flags[kind]
      )
      runs[f"question, {kind}"] = functools.partial(
        search, query_1xD, name.__eq__, _TOP
      )
    timing.take_turns(runs, 1)  # warms up
    times = timing.take_turns(runs, args.repeats)
  for run_name, taken in times.items():
    results[run_name] = {
      key: timing.spread([getattr(t, field) for t in taken])
      for key, field in (("s", "wall"), ("cpu_s", "cpu"))
    }
  for kind in ("command", "question"):
    if "index" in flags:
      results[f"{kind}, index"]["speedup"] = timing.speedup(
        *([t.wall for t in times[f"{kind}, {s}"]] for s in ("index", "exact"))
      )
  return timing.Report(results, notes)


def write(path: str, count: int):
  """A table of `embed`'s form: `count` tracks 0.ogg, 1.ogg, ..."""
  rng = np.random.default_rng(0)
  turn_DxD, _ = np.linalg.qr(rng.normal(size=(_SIZE, _SIZE)))
  scale_DxD = (turn_DxD / np.arange(1, _SIZE + 1)).T.astype(np.float32)
  centres_CxD = rng.normal(size=(_CENTRES, _SIZE)).astype(np.float32)
  of_numbers = pa.list_(pa.float32(), _SIZE)
  names = ("path", "start", "end", "embedding")
  kinds = (pa.string(), pa.float64(), pa.float64(), of_numbers)
  with pq.ParquetWriter(path, pa.schema(list(zip(names, kinds)))) as writer:
    for at in range(0, count, _ROWS):
      n = min(_ROWS, count - at)
      y_NxD = centres_CxD[rng.integers(_CENTRES, size=n)]
      y_NxD = y_NxD + rng.normal(size=y_NxD.shape).astype(np.float32) / 2
      flat = pa.array((y_NxD @ scale_DxD).ravel())
      columns = (
        pa.array([f"{i}.ogg" for i in range(at, at + n)]),
        pa.array(np.zeros(n)),
        pa.array(np.full(n, 30.0)),
        pa.FixedSizeListArray.from_arrays(flat, _SIZE),
      )
      writer.write_table(pa.table(dict(zip(names, columns))))


def _index(where, path):
  return indexes.of_tables(where, Tables([path]), "tracks", "none")


def _exact(path, y_QxD, leave_out, count):
  scaling = neighbours.fit([], _SIZE, "none")
  pieces = Tables([path]).tracks()
  return neighbours.search(y_QxD, pieces, scaling, leave_out, count)


def _command(path, name, *flags):
  command = [sys.executable, "-m", "vicreg_jax", "similar", path, name, *flags]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
