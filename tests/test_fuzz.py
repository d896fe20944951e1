"""Bad input in quantity: each ends as a result or as one clear error.

An input is a function of (target, seed, number), so that each can be made
again. Targets run in a worker process of limited memory, one input at a time
and each within a time limit: a crash of native code, a hang or a memory that
fills are failures of that input, and the next one gets a new worker.

    python tests/test_fuzz.py --inputs=20000 --seed=1
    python tests/test_fuzz.py --targets=audio --number=17  # again, alone
"""

import argparse
import collections
import csv
import hashlib
import io
import json
import os
import pathlib
import random
import resource
import selectors
import subprocess
import sys
import tarfile
import tempfile
import traceback

import music
import numpy as np
import pytest

from vicreg_jax import messages
from vicreg_jax.data import audio

ROOT = pathlib.Path(__file__).parents[1]
RATE = 22_050
SECONDS = 60  # for an input: a hang is for ever, and the machine may be busy
START_SECONDS = 300  # for a worker's first: it imports
MEMORY = 1 << 30  # address space that inputs may take beyond the worker's own
LONGEST_ERROR = 1300  # characters
NUMBERS = (0, 1, 2, 50, 127, 128, 255, 1 << 15, 65_535)
NUMBERS += (2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
ODD_CELLS = (
  "ü ,2", "new\nline", "tab\there", "日本語", 'quo"te', "$x_{", "a" * 200,
  "\u2028", "\x85", "back\\slash", "-0-30", "..", "%s%d", "\x1b[2J", "\r",
  "", "\0", "\n", '"', "\ufeff", "../../etc/passwd", "/etc/passwd",
  "nan", "inf", "1e400", "-1", "2", "9" * 5000, "²", "x" * 200_000, ",", "\t",
  "1,0", "path", "0.5", "None", "=1+1", "./a.wav", "0/../../x.mp3",
)  # fmt: skip


# --- mutations ---


def place(rng, content):
  """A position; every second one in what is probably a header."""
  end = min(len(content), rng.choice((64, len(content))))
  return rng.randrange(end) if end else 0


def flip(rng, content, others):
  for _ in range(rng.choice((1, 2, 8, 64))):
    if content:
      content[place(rng, content)] ^= 1 << rng.randrange(8)


def number(rng, content, others):
  size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
  value = rng.choice(NUMBERS) % (1 << 8 * size)
  at = place(rng, content)
  content[at : at + size] = value.to_bytes(size, order)


def truncate(rng, content, others):
  del content[rng.choice((place(rng, content), rng.randrange(12))) :]


def remove(rng, content, others):
  at = place(rng, content)
  del content[at : at + rng.choice((1, 2, 4, 100))]


def repeat(rng, content, others):
  at, size = place(rng, content), rng.choice((1, 4, 100, 1000))
  content[at:at] = content[at : at + size]


def insert(rng, content, others):
  at = place(rng, content)
  content[at:at] = rng.randbytes(rng.choice((1, 2, 8, 200)))


def zeros(rng, content, others):
  at = place(rng, content)
  size = min(rng.choice((4, 50, 1000)), len(content) - at)
  content[at : at + size] = bytes([rng.choice((0, 255))]) * size


def other_head(rng, content, others):
  size = rng.choice((4, 12, 44, 200))
  content[:size] = rng.choice(others)[:size]


MUTATIONS = (flip, number, truncate, remove, repeat, insert, zeros, other_head)


def mutate(rng, content, others=(b"\xef\xbb\xbf", b"", b"PK\3\4", b"%!PS")):
  content = bytearray(content)
  for _ in range(rng.choice((1, 1, 1, 2, 5))):
    rng.choice(MUTATIONS)(rng, content, others)
  return bytes(content)


def mutate_table(rng, rows, **dialect):
  """A table with wrong cells, rows or columns, in some encoding, as bytes."""
  rows = [list(row) for row in rows]
  for _ in range(rng.choice((0, 1, 1, 2, 4))):
    row = rng.choice(rows)
    kind = rng.randrange(7)
    if kind == 0:
      row.append(rng.choice(ODD_CELLS))
    elif kind == 1 and row:
      row.pop(rng.randrange(len(row)))
    elif kind == 2:
      rows.insert(rng.randrange(len(rows) + 1), list(row))
    elif kind == 3 and len(rows) > 1:
      rows.remove(row)
    elif row:
      row[rng.randrange(len(row))] = rng.choice(ODD_CELLS)
  text = io.StringIO(newline="")
  if rng.random() < 0.1:
    dialect |= {"delimiter": rng.choice(";\t,| ")}
  csv.writer(
    text, lineterminator=rng.choice(("\n", "\n", "\r\n", "\r")), **dialect
  ).writerows(rows)
  text = text.getvalue()
  codec = rng.choice(("utf-8",) * 5 + ("utf-8-sig", "utf-16", "latin-1"))
  content = text.encode(codec, "replace")
  return mutate(rng, content) if rng.random() < 0.3 else content


# --- targets: what is drawn and what is done with it ---


class Case:
  """`run` gives None or raises; errors must have one of `names` in them."""

  def __init__(self, run, *names, about=""):
    self.run, self.names, self.about = run, names, about


def check_samples(samples):
  assert samples.dtype == np.float32 and samples.ndim == 1
  assert samples.size and np.isfinite(samples).all()


def encoded(form, subtype=None, rate=RATE, channels=1):
  return music.encoded(music.noise(rate // 5, channels), rate, form, subtype)


class Audio:
  """Damaged files of libsndfile's encodings."""

  def __init__(self, tmp):
    self.tmp = tmp
    self.files = [
      (suffix, encoded(*form))
      for suffix, *form in (
        ("wav", "WAV", "PCM_16", 44_100, 2), ("wav", "WAV", "FLOAT"),
        ("wav", "WAV", "PCM_24", 8_000), ("wav", "WAV", "IMA_ADPCM"),
        ("wav", "WAV", "MS_ADPCM"), ("wav", "WAVEX", "PCM_16"),
        ("wav", "RF64", "DOUBLE"), ("flac", "FLAC", None, 48_000, 2),
        ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"),
        ("ogg", "OGG", "VORBIS", 44_100, 2), ("opus", "OGG", "OPUS", 48_000),
        ("mp3", "MP3"), ("mp3", "MP3", None, 44_100, 2), ("au", "AU"),
        ("au", "AU", "FLOAT", 44_100, 2), ("aiff", "AIFF"),
        ("aif", "AIFF", "ULAW"), ("wav", "W64"), ("wav", "CAF"),
      )
    ]  # fmt: skip
    for suffix, content in self.files:
      check_samples(audio.loads(content, suffix))

  def case(self, rng):
    suffix, content = rng.choice(self.files)
    content = mutate(rng, content, [other for _, other in self.files])
    return self.load(rng, suffix, content)

  def load(self, rng, suffix, content):
    if rng.random() < 0.3:
      name = f"in the archive.{suffix}"
      return Case(lambda: check_samples(audio.loads(content, name)), name)
    path = self.tmp / f"a.{suffix}"
    path.write_bytes(content)
    return Case(lambda: check_samples(audio.load(path)), str(path))


def check_plan(plan):
  clips = [c for clips in plan.splits.values() for c in clips]
  assert len({c.id for c in clips}) == len(clips)
  assert set(plan.splits) <= {"train", "valid", "test"}
  for clip in clips:
    assert clip.labels.shape == (len(plan.labels),)
    clip.id.encode()
  json.dumps([plan.identity, dict(plan.skipped), plan.labels]).encode()


class Labels:
  """Tables of a folder's labels."""

  def __init__(self, tmp):
    # Here rather than in an input, whose time is limited.
    global configs, folder
    from vicreg_jax import config as configs
    from vicreg_jax.data.datasets import folder

    self.root, self.names = tmp / "labelled", ["a.wav", "b.wav", "s/ü ,2.wav"]
    music.write_tree(self.root, dict.fromkeys(self.names, encoded("WAV")))
    self.csv = self.root / "labels.csv"

  def case(self, rng):
    names = self.names
    kind = rng.randrange(3)
    if kind == 0:
      rows = [["path", "rock", "jazz"]] + [[n, "1", "0"] for n in names]
    elif kind == 1:
      rows = [[name, "rock", "x"][: rng.choice((2, 3))] for name in names]
    else:
      columns = ("genre", "mood", "split", "group", "Track", "artist", "1")
      header = rng.sample(columns, rng.choice((1, 2, 3)))
      rows = [["path", *header]] + [
        [name, *(self.cell(rng, column) for column in header)]
        for name in [*names, *rng.sample(("gone.wav", "x.mid"), 1)]
      ]
    clear_path(self.csv)
    self.csv.write_bytes(mutate_table(rng, rows))
    section = configs.base_prepare().data
    section.update(
      path=str(self.root),
      dir=str(self.root.parent / "prepared"),
      crop=2000,
      labels="csv",
      folders=rng.choice(("auto", "classes")),
      track_pattern=rng.choice(("", "", "(.).*", "(.+)/.*", "(", "(x)")),
    )
    return Case(
      lambda: check_plan(folder.Folder.source(section)),
      "labels.csv",
      "data.track_pattern",
    )

  def cell(self, rng, column):
    if column == "split":
      return rng.choice(("train", "Test", "val", "valid", "validation", ""))
    return rng.choice(("a", "b", "", "0", "1", "rock"))


def clear_path(path):
  if path.is_dir() and not path.is_symlink():
    path.rmdir()
  else:
    path.unlink(missing_ok=True)


def flat(tree, prefix=""):
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from flat(value, f"{prefix}{key}.")
    yield f"{prefix}{key}"


class Export:
  """Folders that `export` has written, with heads, whose files are damaged."""

  def __init__(self, tmp):
    global encoders, jax
    import jax

    from vicreg_jax.use import encoder as encoders
    from vicreg_jax.use import export, heads

    archive = ROOT / "tests" / "fixtures" / "workdir_65d3f10.tar.gz"
    with tarfile.open(archive) as f:
      f.extractall(tmp)
    encoder = encoders.load(str(tmp / "run"))
    draw = np.random.default_rng(0).normal
    self.want = jax.tree.leaves(encoder.variables)
    self.y_SxD = draw(size=(2, encoder.size))
    dense = {"kernel": draw(size=(encoder.size, 3)), "bias": draw(size=3)}
    made = heads.Heads(
      ("a", "b", "c"),
      True,
      encoder.fingerprint(),
      3,
      {"linear": {"out": dense}},
    )
    self.run, self.files = tmp / "exports", []
    for format in export.WEIGHTS:
      card = export.make_card(
        encoder.config.to_dict(), name="a", licence="MIT", tags=made.labels
      )
      path = self.run / format
      names = export.write(encoder.variables, card, str(path), format, made)
      self.files += [path / name for name in sorted(names)]
      self.load(path)

  def load(self, path):
    encoder = encoders.load(str(path))
    for got, want in zip(
      jax.tree.leaves(encoder.variables), self.want, strict=True
    ):
      assert got.shape == want.shape
    if heads := encoder.heads:
      for head in ("", *heads.params):
        shares = heads.probabilities(self.y_SxD, head)
        assert shares.shape == (len(heads.labels),)
        assert np.isfinite(shares).all()
    return encoder

  def case(self, rng):
    path = rng.choice(self.files)
    content, card = path.read_bytes(), path.parent / "model.json"
    about = card.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
      path.write_text(self.odd_json(rng, content))
    elif rng.random() < 0.15:
      path.unlink()
      if rng.random() < 0.5:
        path.mkdir()
    else:
      path.write_bytes(mutate(rng, content))
    passes = path.stem == "encoder" and path.is_file() and rng.random() < 0.5
    if passes:  # even where the sum is right
      digest = hashlib.sha256(path.read_bytes()).hexdigest()
      card.write_text(json.dumps(json.loads(about) | {"sha256": digest}))

    def run():
      try:
        self.load(path.parent)
      finally:
        clear_path(path)
        card.write_bytes(about)
        path.write_bytes(content)

    return Case(run, str(path.parent), about=str(path.relative_to(self.run)))

  def odd_json(self, rng, content):
    tree = json.loads(content)
    *parents, last = rng.choice([*flat(tree)]).split(".")
    node = tree
    for parent in parents:
      node = node[parent]
    if rng.random() < 0.2:
      del node[last]
    else:
      node[last] = rng.choice(
        (None, -1, 0, 10**30, 1e300, float("nan"), float("inf"), "", "x", [],
         {}, [[]], True, "vicreg", [1, "a"], 0.5, "\0", 2**31)
      )  # fmt: skip
    return json.dumps(tree)


# name: (target, inputs in CI)
TARGETS = {
  "audio": (Audio, 800),
  "labels": (Labels, 300),
  "export": (Export, 120),
}


# --- the worker ---


def outcome(case):
  """("result" | "error" | "wrong", what happened) of one input."""
  try:
    case.run()
  except ValueError as error:
    text = messages.line(error)
    ours = messages.ours(error) or isinstance(error.__cause__, SystemExit)
    unclear = (
      "raised outside the package" * (not ours)
      or "not one printable line" * (not text.isprintable())
      or "too long" * (len(text) > LONGEST_ERROR)
      or "names neither file nor key" * (not any(n in text for n in case.names))
    )
    if not unclear:
      return "error", text
    return "wrong", f"{unclear}: {text[:300]}{where(error)}"
  except BaseException as error:
    return "wrong", f"{type(error).__name__}: {str(error)[:300]}{where(error)}"
  return "result", ""


def where(error):
  frames = traceback.extract_tb(error.__traceback__)[-4:]
  return "".join(f"\n  {f.filename}:{f.lineno} {f.line}" for f in frames)


def limit_memory():
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  limit = pages * resource.getpagesize() + MEMORY
  hard = resource.getrlimit(resource.RLIMIT_AS)[1]
  resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def work():
  """Runs the inputs that stdin names; answers each with a line of JSON."""
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # libraries print
  tmp = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[2]))
  targets = {}
  for line in sys.stdin:
    name, seed, index = line.split()
    if name not in targets:
      hard = resource.getrlimit(resource.RLIMIT_AS)[1]
      resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
      (tmp / name).mkdir()
      targets[name] = TARGETS[name][0](tmp / name)
      limit_memory()
    rng = random.Random(f"{name} {seed} {index}")
    case = targets[name].case(rng)
    kind, text = outcome(case)
    answer = dict(kind=kind, text=text, about=case.about)
    print(json.dumps(answer), file=answers, flush=True)


class Worker:
  """A process that runs inputs, and is replaced when one ends or stops it."""

  def __init__(self, tmp):
    self.tmp, self.process, self.targets = str(tmp), None, set()

  def start(self):
    self.targets = set()
    env = {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"}
    self.process = subprocess.Popen(
      [sys.executable, __file__, "--worker", self.tmp],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      env=os.environ | env | {"PYTHONPATH": str(ROOT)},
    )

  def stop(self):
    if self.process:
      self.process.kill()
      self.process.communicate()
      self.process = None

  def run(self, name, seed, index):
    """The answer; its kind may also be "crash" or "hang"."""
    if self.process is None:
      self.start()
    limit = SECONDS if name in self.targets else START_SECONDS
    self.targets.add(name)
    self.process.stdin.write(f"{name} {seed} {index}\n".encode())
    self.process.stdin.flush()
    with selectors.DefaultSelector() as selector:
      selector.register(self.process.stdout, selectors.EVENT_READ)
      ready = selector.select(limit)
    line = self.process.stdout.readline() if ready else b""
    if line:
      return json.loads(line)
    code = self.process.wait() if ready else None
    self.stop()
    kind, text = ("crash", f"exit code {code}") if ready else ("hang", "")
    return dict(kind=kind, text=text, about="")


def fuzz(worker, name, seed, numbers):
  """(figures, failures) of some inputs of a target."""
  counts, failures = collections.Counter(), []
  for index in numbers:
    answer = worker.run(name, seed, index)
    counts[answer["kind"]] += 1
    if answer["kind"] not in ("result", "error"):
      again = f"--targets={name} --seed={seed} --number={index}"
      what = f"{answer['kind']} {answer['about']}\n{answer['text']}"
      failures.append(f"{again}: {what}")
  figures = f"{name:<11}{len(numbers):>7}" + "".join(
    f"{counts[k]:>9}" for k in ("result", "error", "wrong", "crash", "hang")
  )
  return figures, failures


HEADER = (
  f"{'bad input':<11}{'inputs':>7}{'results':>9}{'errors':>9}{'wrong':>9}"
  f"{'crashes':>9}{'hangs':>9}"
)


# --- the test ---


@pytest.fixture(scope="module")
def worker():
  with tempfile.TemporaryDirectory() as tmp:
    worker = Worker(tmp)
    yield worker
    worker.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_ends_well(worker, name):
  _, failures = fuzz(worker, name, 0, range(TARGETS[name][1]))
  assert not failures, "\n\n".join([f"{len(failures)} failed", *failures[:5]])


def command():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--inputs", type=int, help="of all targets together")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--targets", default=",".join(TARGETS))
  parser.add_argument("--number", type=int, help="this input alone")
  args = parser.parse_args()
  names = args.targets.split(",")
  usual = sum(TARGETS[name][1] for name in names)
  print(HEADER, flush=True)
  failed = 0
  with tempfile.TemporaryDirectory() as tmp:
    worker = Worker(tmp)
    for name in names:
      count = TARGETS[name][1]
      if args.inputs:
        count = round(count * args.inputs / usual)
      numbers = range(count) if args.number is None else [args.number]
      figures, failures = fuzz(worker, name, args.seed, numbers)
      print(figures, flush=True)
      for failure in failures:
        print(failure)
      failed += len(failures)
    worker.stop()
  sys.exit(failed > 0)


if __name__ == "__main__":
  work() if sys.argv[1:2] == ["--worker"] else command()
