"""The thesis's tables: their form, their ends, and what its prose says."""

import math

import pytest

from vicreg_jax.study import thesis

METRICS = ("roc_auc", "pr_auc")


def column(table, head, metric):
  return {
    key: scores[head][metric] for key, scores in table.items() if head in scores
  }


def best(table, head, metric):
  values = column(table, head, metric)
  return {key for key, value in values.items() if value == max(values.values())}


def test_keys_are_the_tables_rows():
  methods = ("CLMR", "VICReg")
  epochs = (300, 1000, 3000, 5000, 8000)
  sizes = (32, 64, 128, 256, 512)
  batches = (64, 128, 256, 512, 768, 1024, 1280, 1536, 1792)
  assert set(thesis.TABLE_A_1) == {(m, e) for m in methods for e in epochs}
  assert set(thesis.TABLE_A_2) == {(m, s) for m in methods for s in sizes}
  assert set(thesis.TABLE_B_1) == {(b,) for b in batches}
  assert set(thesis.TABLE_B_2) == {(b, p) for b in methods for p in methods}
  assert set(thesis.TABLE_4_1) == {
    ("SampleCNN", "MTAT"),
    ("CLMR", "GTZAN"),
    ("CLMR", "FMA"),
    ("VICReg", "GTZAN"),
    ("VICReg", "MTAT"),
    ("VICReg", "FMA"),
  }
  assert set(thesis.CITED) == {("MusicCNN", "MTAT"), ("CLMR", "MSD")}


# Sums of the columns as printed: linear ROC-AUC and PR-AUC, then two-layer.
@pytest.mark.parametrize(
  "table, sums",
  [
    ("TABLE_4_1", (515.79, 187.81, 432.49, 157.17)),
    ("CITED", (177.70, 70.50, 89.30, 36.00)),
    ("TABLE_A_1", (871.73, 327.72, 881.16, 337.06)),
    ("TABLE_A_2", (845.36, 290.40, 867.23, 310.93)),
    ("TABLE_B_1", (777.81, 282.12, 789.89, 297.63)),
    ("TABLE_B_2", (346.55, 127.43, 263.84, 99.85)),
  ],
)
def test_columns_add_up(table, sums):
  found = [
    math.fsum(column(getattr(thesis, table), head, metric).values())
    for head in ("linear", "mlp")
    for metric in METRICS
  ]
  assert found == pytest.approx(sums, abs=1e-6)


def test_section_4_2_ranks_the_methods_by_size():
  table = thesis.TABLE_A_2
  for metric in METRICS:
    for size in (32, 64, 128):
      clmr, vicreg = table["CLMR", size], table["VICReg", size]
      assert clmr["linear"][metric] > vicreg["linear"][metric]
    clmr, vicreg = table["CLMR", 512], table["VICReg", 512]
    for head in ("linear", "mlp"):
      assert clmr[head][metric] < vicreg[head][metric]
  for method in ("CLMR", "VICReg"):
    for head in ("linear", "mlp"):
      for metric in METRICS:
        values = [
          table[method, s][head][metric] for s in (32, 64, 128, 256, 512)
        ]
        assert values == sorted(values)


def test_appendix_b_names_the_best():
  table = thesis.TABLE_B_1
  # "a batch size of 768 ... The only exception is PR-AUC" of two layers. Two
  # batch sizes share the best linear ROC-AUC.
  assert best(table, "linear", "roc_auc") == {(256,), (768,)}
  assert best(table, "linear", "pr_auc") == {(768,)}
  assert best(table, "mlp", "roc_auc") == {(768,)}
  assert best(table, "mlp", "pr_auc") == {(1792,)}
  # The run of 768 is that of representation size 512, and CLMR's own
  # projector that of its size 512.
  assert table[768,] == thesis.TABLE_A_2["VICReg", 512]
  assert thesis.TABLE_B_2["CLMR", "CLMR"] == thesis.TABLE_A_2["CLMR", 512]
  # Section B.2: 87.07; 88.22; 32.82 and 33.71.
  for head, metric, key, value in (
    ("linear", "roc_auc", ("CLMR", "CLMR"), 87.07),
    ("mlp", "roc_auc", ("VICReg", "VICReg"), 88.22),
    ("linear", "pr_auc", ("VICReg", "VICReg"), 32.82),
    ("mlp", "pr_auc", ("VICReg", "VICReg"), 33.71),
  ):
    assert best(thesis.TABLE_B_2, head, metric) == {key}
    assert thesis.TABLE_B_2[key][head][metric] == value
