"""Tables made elsewhere as rows of a probe, against scikit-learn by hand."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from conftest import shrink
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vicreg_jax
from vicreg_jax import config as configs
from vicreg_jax.data import input_pipeline
from vicreg_jax.evaluation import (
  classifiers,
  other_vectors,
  representations,
)
from vicreg_jax.jobs import probe

SPLITS = ("train", "valid", "test")
STRENGTHS = (1e-3, 1e-1)  # test_classifiers.py has all


@pytest.fixture
def probing(small_run, data_dir, monkeypatch):
  monkeypatch.setattr(classifiers, "STRENGTHS", STRENGTHS)
  config = shrink(configs.base_probe(), data_dir)
  config.checkpoint = small_run
  config.probe.heads = classifiers.NAMES
  config.probe.untrained = config.probe.mfcc = False
  return config


@pytest.fixture
def clips(prepared):
  """{id: (split, its labels)}"""
  found = {}
  for split in SPLITS:
    names = input_pipeline.labels(prepared, split)
    found |= {i: (split, y) for i, y in zip(names.ids, names.labels_NxK)}
  return found


def write(path, vectors):
  """As pandas does: lists of doubles, of any length; rows in any order."""
  order = sorted(vectors, key=lambda name: name[::-1])
  rows = [None if vectors[n] is None else [*vectors[n]] for n in order]
  pq.write_table(pa.table({"path": order, "embedding": rows}), path)
  return path


def drawn(clips, size=6):
  """Vectors that know a little of the labels."""
  rng = np.random.default_rng(0)
  known_KxD = rng.normal(size=(16, size))
  return {
    id_: labels_K @ known_KxD + rng.normal(size=size)
    for id_, (_, labels_K) in clips.items()
  }


def auc(labels_NxK, predicted_NxK):
  told = [k for k, has_N in enumerate(labels_NxK.T) if 0 < has_N.mean() < 1]
  return 100 * np.mean(
    [
      sklearn.metrics.roc_auc_score(labels_NxK[:, k], predicted_NxK[:, k])
      for k in told
    ]
  )


def by_scikit_learn(vectors, clips):
  """{head: its ROC-AUC on the test clips}, chosen on those to validate on."""
  x, labels = (
    {s: np.array([of[i] for i in clips if clips[i][0] == s]) for s in SPLITS}
    for of in (vectors, {i: labels_K for i, (_, labels_K) in clips.items()})
  )

  def weights(distance):
    return np.exp((1 - distance) / 0.07)

  found = {}
  for head, models in {
    "logistic": [LogisticRegression(C=C, max_iter=5000) for C in STRENGTHS],
    "knn": [
      KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=weights
      )
      for k in (24, 20, 10, 5, 3, 1)
    ],
  }.items():
    scored = []
    for model in models:
      fits = [
        make_pipeline(StandardScaler(), clone(model)).fit(x["train"], has_N)
        for has_N in labels["train"].T
      ]
      valid, test = (
        auc(
          labels[s],
          np.stack([fit.predict_proba(x[s])[:, 1] for fit in fits], axis=1),
        )
        for s in ("valid", "test")
      )
      scored.append((valid, test))
    found[head] = max(scored, key=lambda pair: pair[0])[1]
  return found


def samples(prepared):
  """{id: floats}"""
  return {
    example["id"].numpy().decode(): np.frombuffer(
      example["samples"].numpy(), "<i2"
    ).astype(np.float32)
    / 32767
    for split in SPLITS
    for example in prepared.dataset(split)
  }


def test_tables_made_elsewhere_are_rows(
  probing, prepared, clips, small_run, tmp_path, capsys, monkeypatch
):
  """The encoder's own vectors, made into tables, score as the encoder does."""
  encoder, heard = vicreg_jax.load(small_run), samples(prepared)
  tables = {"peer": drawn(clips)}
  for name, pooling in (("own", "mean_std"), ("own_mean", "mean")):
    tables[name] = {
      i: encoder.embed(x_T, 22_050, pooling=pooling) for i, x_T in heard.items()
    }
  paths = {n: write(tmp_path / n, of) for n, of in tables.items()}
  probing.probe.others = ",".join(f"{n}={path}" for n, path in paths.items())
  probing.probe.update(splits=2, retrieval=5)
  results = probe.run(probing, str(tmp_path / "probe"))
  prefixes = ("", "mean_", "peer_", "own_", "own_mean_")
  names = [f"{p}{head}" for p in prefixes for head in ("logistic", "knn")]
  assert [name for name in results if name in names] == names
  assert set(results["splits"]) == {"count", *names}
  for head, expected in by_scikit_learn(tables["peer"], clips).items():
    got = results[f"peer_{head}"]["roc_auc"]
    assert got == pytest.approx(expected, abs=1e-3), head
    ours = results[head]["roc_auc"]
    assert got != ours and results[f"mean_{head}"]["roc_auc"] != ours
    for of, size in ((results, "difference"), (results["splits"], "mean")):
      over = {o: of[head][f"over_{o}"]["roc_auc"] for o in ("peer", "own")}
      assert over["own"][size] == pytest.approx(0, abs=1e-3)
      assert over["peer"][size] != 0
      assert of[f"own_mean_{head}"]["roc_auc"] == pytest.approx(
        of[f"mean_{head}"]["roc_auc"], abs=1e-3
      )
    difference = results[head]["over_peer"]["roc_auc"]
    assert difference["difference"] == pytest.approx(ours - got)
    low, high = difference["interval"]
    assert low < ours - got < high
  found = json.loads((tmp_path / "probe" / "retrieval.json").read_text())
  assert found["trained"] == pytest.approx(found["own"])
  assert found["mean"] == pytest.approx(found["own_mean"])
  assert "class" in found["peer"]
  # Made again of other vectors, and not of a table that was moved.
  moved = shutil.move(paths["peer"], tmp_path / "moved")
  probing.probe.others = probing.probe.others.replace(
    str(paths["peer"]), str(moved)
  )
  assert probe.run(probing, str(tmp_path / "probe")) == results
  assert "made of the same" in capsys.readouterr().err
  write(moved, {i: y_D + 1 for i, y_D in tables["peer"].items()})
  monkeypatch.setattr(representations, "segments", None)
  with pytest.raises(TypeError):
    probe.run(probing, str(tmp_path / "probe"))


def test_paths_are_matched_as_those_of_tables_of_labels(
  probing, prepared, clips, tmp_path
):
  vectors = drawn(clips)
  ids = list(clips)
  spelled = {f"./x/../{i}": vectors[i] for i in ids[:9]}
  spelled |= {f"music/{i}": vectors[i] for i in ids[9:20]}
  spelled |= {str(tmp_path / "music" / i): vectors[i] for i in ids[20:]}
  spelled |= {"train/no clip": [np.nan] * 6, "": [0] * 6}
  table = write(tmp_path / "t", spelled)
  probing.probe.others = f"peer={table}"
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path)
    probing.data.path = "music"
    found = other_vectors.read(prepared, probing)["peer"]
  for split in SPLITS:
    want = [vectors[i] for i, (where, _) in clips.items() if where == split]
    np.testing.assert_array_equal(found.y[split], np.float32(want))


@pytest.mark.parametrize(
  "others, said",
  [
    ("t.parquet", "it must be name=table.parquet"),
    ("a=", "it must be name=table.parquet"),
    ("a b=t", "it must be name=table.parquet"),
    ("mfcc=t", "there is a row 'mfcc': rename mfcc=t"),
    ("a={t},a={t}", "there is a row 'a': rename"),
    ("a=nowhere.parquet", r"a=nowhere.parquet cannot be read \(.*No such"),
    ("a={torn}", "cannot be read"),
  ],
)
def test_what_is_no_table_is_refused(
  probing, prepared, clips, tmp_path, others, said
):
  write(tmp_path / "t", drawn(clips))
  (tmp_path / "torn").write_bytes((tmp_path / "t").read_bytes()[:-9])
  names = {name: tmp_path / name for name in ("t", "torn")}
  probing.probe.others = others.format(**names)
  with pytest.raises(ValueError, match=said) as error:
    other_vectors.read(prepared, probing)
  assert "\n" not in str(error.value) and "probe.others" in str(error.value)


def _lacking(vectors, ids):
  return {i: y_D for i, y_D in vectors.items() if i not in ids[:4]}


@pytest.mark.parametrize(
  "change, said",
  [
    (_lacking, r"no row for 4 of 43 clips, such as '{0}', '{1}', '{2}': add"),
    (lambda v, ids: v | {f"./{ids[1]}": v[ids[1]]}, "two rows of '{1}'"),
    (lambda v, ids: v | {ids[2]: [np.inf] * 6}, "of '{2}' is not finite"),
    (lambda v, ids: v | {ids[2]: [1e300] * 6}, "of '{2}' is not finite"),
    (lambda v, ids: v | {ids[2]: [None] * 6}, "of '{2}' is not finite"),
    (lambda v, ids: v | {ids[3]: [0] * 4}, "vectors of (4, 6|6, 4) numbers"),
    (lambda v, ids: v | {ids[3]: None}, "vectors of (no, 6|6, no) numbers"),
    (lambda v, ids: {i: [] for i in v}, "vectors of no numbers"),
    (lambda v, ids: {i: ["x"] for i in v}, "cannot be read"),
  ],
)
def test_vectors_that_cannot_be_judged_are_refused(
  probing, prepared, clips, tmp_path, change, said
):
  ids = list(clips)
  table = write(tmp_path / "t", change(drawn(clips), ids))
  probing.probe.others = f"a={table}"
  with pytest.raises(ValueError, match=said.format(*ids)) as error:
    other_vectors.read(prepared, probing)
  assert str(error.value).startswith(f"probe.others: a={table}")


def test_columns_and_heads_have_to_be_there(probing, prepared, tmp_path):
  table = tmp_path / "t"
  probing.probe.others = f"a={table}"
  for column, lacking in (("path", "embedding"), ("y", "embedding, path")):
    pq.write_table(pa.table({column: ["a"]}), table)
    with pytest.raises(ValueError, match=f"has no column {lacking}$"):
      other_vectors.read(prepared, probing)
  pq.write_table(pa.table({"path": ["a"], "embedding": [1.0]}), table)
  with pytest.raises(ValueError, match=r"cannot be read .* lists"):
    other_vectors.read(prepared, probing)
  probing.probe.heads = ("linear",)
  with pytest.raises(ValueError, match=r"probe\.heads"):
    other_vectors.read(prepared, probing)
