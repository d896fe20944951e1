"""The thesis's figures show the rows and the runs' files."""

import json
import math
import xml.etree.ElementTree

import numpy as np
import pytest

from vicreg_jax import plots
from vicreg_jax.study import figures, tables, training_figures

SMOKE = "smoke scale: says nothing about the thesis"


@pytest.fixture
def saved(monkeypatch):
  """The figures given to be saved, each once and laid out, not written."""
  figures = []

  def save(figure, path):
    if str(path).endswith(".png"):
      figure.draw_without_rendering()
      figures.append(figure)

  monkeypatch.setattr(plots, "save", save)
  return figures


def scores(linear=None, mlp=None):
  """From (ROC-AUC, PR-AUC) of each head; a head without is absent."""
  pairs = {"linear": linear, "mlp": mlp}
  return {
    head: dict(zip(("roc_auc", "pr_auc"), pair))
    for head, pair in pairs.items()
    if pair
  }


def row(ours, thesis=None, **labels):
  return {"labels": labels, "scores": ours, "thesis": thesis}


def results(rows, metrics=("roc_auc", "pr_auc")):
  return tables.Results(rows, [], metrics, "")


def curves():
  """Rows out of order, one failed, one without its two-layer head."""
  return [
    row(scores((83, 33), (93, 43)), method="CLMR", epochs=3000),
    row(scores((81, 31), (91, 41)), method="CLMR", epochs=300),
    row(None, scores((72, 22), (73, 23)), method="CLMR", epochs=1000),
    row(scores((61, 21)), method="VICReg", epochs=300),
    row(scores((62, 22), (64, 24)), method="VICReg", epochs=3000),
  ]


def draw_curves(rows, x="epochs", group="method", out="unused", **options):
  made = rows if isinstance(rows, tables.Results) else results(rows)
  figures.score_curves(made, out, x=x, x_label="", group=group, **options)


def drawn(ax):
  """{label: (x, y)} of the lines, nan as None."""
  return {
    line.get_label(): [
      [None if math.isnan(v) else v for v in np.asarray(values, float)]
      for values in line.get_data()
    ]
    for line in ax.get_lines()
  }


def legend(figure):
  (found,) = figure.legends
  return [text.get_text() for text in found.get_texts()]


def write(path, lines):
  path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
  return path


def test_score_curves_show_the_rows(saved):
  figures.score_curves(
    results(curves()),
    "unused",
    x="epochs",
    x_label="epochs of FMA",
    group="method",
  )
  roc, pr = saved[0].axes
  assert drawn(roc) == {
    "CLMR, linear": [[300, 1000, 3000], [81, None, 83]],
    "CLMR, two-layer": [[300, 1000, 3000], [91, None, 93]],
    "CLMR, linear, thesis": [[300, 1000, 3000], [None, 72, None]],
    "CLMR, two-layer, thesis": [[300, 1000, 3000], [None, 73, None]],
    "VICReg, linear": [[300, 3000], [61, 62]],
    "VICReg, two-layer": [[300, 3000], [None, 64]],
  }
  assert drawn(pr)["CLMR, two-layer"] == [[300, 1000, 3000], [41, None, 43]]
  assert legend(saved[0]) == list(drawn(roc))
  assert [ax.get_ylabel() for ax in (roc, pr)] == ["ROC-AUC (%)", "PR-AUC (%)"]
  assert [ax.get_xlabel() for ax in (roc, pr)] == ["epochs of FMA"] * 2
  for ax in (roc, pr):
    assert ax.get_xticks().tolist() == [300, 1000, 3000]
    assert ax.get_xscale() == "linear"


def grid():
  return [
    row(scores((1, pr), (1, pr + 2)), batch_size=batch, size=size)
    for (batch, size), pr in {
      (512, 32): 24.0,
      (64, 32): 20.0,
      (256, 32): 21.0,
      (64, 128): 30.0,
      (256, 128): 40.0,
      (512, 512): 33.0,
    }.items()
  ] + [row(None, batch_size=512, size=128)]


def test_heat_maps_normalise_each_column(saved):
  figures.heat_maps(results(grid()), "unused", x="size", y="batch_size")
  linear, two_layer, bar = saved[0].axes
  for ax, more in ((linear, 0), (two_layer, 2)):
    cells_YxX = ax.collections[0].get_array()
    # Upwards 64, 256 and 512; a lone value in its column has no colour.
    np.testing.assert_array_equal(
      cells_YxX.filled(-1), [[0, 0, -1], [0.25, 1, -1], [1, -1, -1]]
    )
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    assert texts == {
      (0.5, 0.5): f"{20 + more}.00",
      (0.5, 1.5): f"{21 + more}.00",
      (0.5, 2.5): f"{24 + more}.00",
      (1.5, 0.5): f"{30 + more}.00",
      (1.5, 1.5): f"{40 + more}.00",
      (2.5, 2.5): f"{33 + more}.00",
    }
    hatched = {p.get_xy() for p in ax.patches if p.get_hatch()}
    assert hatched == {(1, 2), (2, 0), (2, 1)}
    assert [p.get_xy() for p in ax.patches if not p.get_hatch()] == [(2, 2)]
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == ["32", "128", "512"]
    assert ax.get_xlabel() == "size"
  assert [t.get_text() for t in linear.get_yticklabels()] == [
    "64",
    "256",
    "512",
  ]
  assert not linear.yaxis_inverted()  # the largest batch on top
  assert linear.get_ylabel() == "batch size"
  assert linear.get_title() == "linear head"
  assert two_layer.get_title() == "two-layer head"
  assert "(value - column minimum)" in bar.get_xlabel()


def dots(ax):
  """{(row, marker, filled): (value, (low, high) of its error bar or None)}"""
  found = {}
  for container in ax.containers:
    line, _, bars = container.lines
    ((value,), (height,)) = line.get_data()
    if not math.isnan(value):
      ends = [tuple(bar.get_segments()[0][:, 0]) for bar in bars]
      key = (round(height), line.get_marker(), line.get_fillstyle() == "full")
      found[key] = (value, ends[0] if ends else None)
  return found


def test_score_dots_show_rows_and_spread(saved):
  rows = [
    row(scores((80, 30), (82, 32)), scores((81, 31)), method="CLMR", data="A"),
    row(None, scores((84, 34), (85, 35)), method="VICReg", data="B"),
    row(scores((70, 20)), method="untrained", data="B"),
  ]
  rows[0]["spread"] = scores((0.5, 0.25))
  figures.score_dots(results(rows), "unused")
  roc, pr = saved[0].axes
  assert dots(roc) == {
    (0, "o", True): (80, (79.5, 80.5)),
    (0, "s", True): (82, None),
    (0, "o", False): (81, None),
    (1, "o", False): (84, None),
    (1, "s", False): (85, None),
    (2, "o", True): (70, None),
  }
  assert dots(pr)[0, "o", True] == (30, (29.75, 30.25))
  assert [t.get_text() for t in roc.get_yticklabels()] == [
    "CLMR, A",
    "VICReg, B",
    "untrained, B",
  ]
  assert roc.yaxis_inverted()  # the first row on top
  assert [ax.get_xlabel() for ax in (roc, pr)] == ["ROC-AUC (%)", "PR-AUC (%)"]
  assert legend(saved[0]) == [
    "linear",
    "two-layer",
    "linear, thesis",
    "two-layer, thesis",
  ]
  colors = [c.lines[0].get_color() for c in roc.containers]
  assert colors[0] == plots.RED and colors[4] == plots.BLUE
  assert colors[8] not in (plots.RED, plots.BLUE)


def training(steps, per_epoch, **metrics):
  """Lines of training: each metric a function of the epoch."""
  return [
    {"step": s, "train/epoch": s / per_epoch}
    | {f"train/{name}": f(s / per_epoch) for name, f in metrics.items()}
    for s in steps
  ]


def test_loss_terms_over_epochs(saved, tmp_path):
  terms = {
    "invariance": lambda e: 1 + e,
    "variance": lambda e: None if e == 1 else 2.0**-e,
    "covariance": lambda e: 10.0 ** (3 - e),
  }
  runs = {
    "64": write(tmp_path / "a.jsonl", training(range(2, 9, 2), 4, **terms)),
    "128": None,
    "256": write(tmp_path / "b.jsonl", training((2, 4), 2, **terms)),
  }
  training_figures.loss_terms(runs, "unused")
  invariance, variance, covariance = saved[0].axes
  epochs = [0.5, 1, 1.5, 2]
  assert drawn(invariance) == {
    "64": [epochs, [1.5, 2, 2.5, 3]],
    "128 (no data)": [[], []],
    "256": [[1, 2], [2, 3]],
  }
  assert drawn(variance)["64"] == [epochs, [2**-0.5, None, 2**-1.5, 0.25]]
  assert drawn(covariance)["256"] == [[1, 2], [100, 10]]
  scales = [ax.get_yscale() for ax in saved[0].axes]
  assert scales == ["linear", "linear", "log"]
  labels = [ax.get_ylabel() for ax in saved[0].axes]
  assert labels == ["invariance", "variance", "covariance"]
  assert legend(saved[0]) == ["64", "128 (no data)", "256"]
  assert saved[0].legends[0].get_title().get_text() == "batch size"
  # In order from dark to light, told apart by markers too.
  lines = invariance.get_lines()
  lightness = [sum(line.get_color()[:3]) for line in lines]
  assert lightness == sorted(lightness) and len(set(lightness)) == 3
  assert len({line.get_marker() for line in lines}) == 3


def test_losses_are_smoothed_over_epochs(saved, tmp_path):
  # Validation has no epoch of its own: step 40 is epoch 20.
  lines = training(range(20, 161, 20), 2, loss=lambda e: e) + [
    {"step": s, "validation/loss": v}
    for s, v in ((40, 3), (80, 9), (120, 6), (160, 0))
  ]
  runs = {"CLMR": write(tmp_path / "a.jsonl", lines), "VICReg": None}
  training_figures.losses(runs, "unused")
  clmr, vicreg = saved[0].axes
  epochs = [10, 20, 30, 40, 50, 60, 70, 80]
  assert drawn(clmr) == {
    "training": [epochs, [20, 25, 30, 40, 50, 60, 65, 70]],
    "validation": [[20, 40, 60, 80], [6, 6, 5, 3]],
  }
  assert clmr.get_title() == "CLMR"
  assert vicreg.get_title() == "VICReg (no data)"
  assert clmr.get_xlabel() == "epoch"
  assert legend(saved[0]) == ["training", "validation"]
  training_figures.losses({"CLMR": runs["CLMR"]}, "unused", smooth_epochs=1)
  (ax,) = saved[1].axes
  assert drawn(ax)["validation"] == [[20, 40, 60, 80], [3, 9, 6, 0]]


def collapse_runs(tmp_path):
  lines = training((2, 4), 2, loss=lambda e: e) + [
    {
      "step": step,
      "representation/effective_rank": 10 * step,
      "representation/std": 0.1 * step,
      "representation/mean_abs_correlation": None,
      "embedding/effective_rank": 5 * step,
      "embedding/std": 0.2 * step,
      "embedding/mean_abs_correlation": 0.3,
    }
    for step in (2, 4)
  ]
  return {
    "CLMR": {"metrics": None, "spectra": {}, "scores": [(1, None)]},
    "VICReg": {
      "metrics": write(tmp_path / "collapse.jsonl", lines),
      "spectra": {
        2: ([8.0, 4.0, 0.0], [6.0, 3.0]),
        1: (np.array([2.0, 2.0, 1.0]), [1.0, 1e-12]),
      },
      "scores": [(3, scores((82, 1), (84, 1))), (1, scores((81, 1)))],
    },
  }


def test_collapse_shows_metrics_scores_and_spectra(saved, tmp_path):
  training_figures.collapse(collapse_runs(tmp_path), "unused")
  rank, std, correlation, probes, y_spectra, z_spectra = saved[0].axes

  def solid_and_dashed(ax):
    lines = [line for line in ax.get_lines() if line.get_color() == plots.BLUE]
    assert [line.is_dashed() for line in lines] == [False, True]
    return [np.array(line.get_data(), float).tolist() for line in lines]

  assert solid_and_dashed(rank) == [[[1, 2], [20, 40]], [[1, 2], [10, 20]]]
  assert solid_and_dashed(std) == [[[1, 2], [0.2, 0.4]], [[1, 2], [0.4, 0.8]]]
  solid, dashed = solid_and_dashed(correlation)
  assert np.isnan(solid[1]).all() and dashed == [[1, 2], [0.3, 0.3]]
  solid, dashed = solid_and_dashed(probes)
  assert solid == [[1, 3], [81, 82]]
  assert math.isnan(dashed[1][0]) and dashed[1][1] == 84
  # Sorted by epoch, over the largest, zeros left out; later is darker.
  early, late = y_spectra.get_lines()
  np.testing.assert_array_equal(early.get_data(), [[1, 2, 3], [1, 1, 0.5]])
  np.testing.assert_array_equal(late.get_data(), [[1, 2], [1, 0.5]])
  assert sum(early.get_color()) > sum(late.get_color())
  early, late = z_spectra.get_lines()
  np.testing.assert_array_equal(early.get_data(), [[1, 2], [1, 1e-12]])
  np.testing.assert_array_equal(late.get_data(), [[1, 2], [1, 0.5]])
  for ax in (y_spectra, z_spectra):
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    epochs = [text.get_text() for text in ax.get_legend().get_texts()]
    assert epochs == ["1", "2"]
  assert z_spectra.get_ylim()[0] == pytest.approx(1e-8)
  # The panels over epochs have one axis, as wide as the widest needs.
  for ax in (rank, std, correlation, probes):
    assert ax.get_xlim() == rank.get_xlim()
  assert 2.9 < rank.get_xlim()[1] < 3.2
  assert legend(saved[0]) == [
    "CLMR: representation; (d): linear head",
    "CLMR: embedding; (d): two-layer head",
    "VICReg: representation; (d): linear head",
    "VICReg: embedding; (d): two-layer head",
  ]


def test_files_are_the_same_bytes_each_time(tmp_path):
  import matplotlib

  before = dict(matplotlib.rcParams)
  for name in ("a", "b"):
    figures.heat_maps(
      results(grid()), tmp_path / name, x="size", y="batch_size", stamp=SMOKE
    )
    figures.score_dots(
      results(curves()), f"{tmp_path}/dots_{name}", stamp=SMOKE
    )
  for stem in ("", "dots_"):
    for suffix in (".png", ".svg"):
      a = (tmp_path / f"{stem}a{suffix}").read_bytes()
      assert a == (tmp_path / f"{stem}b{suffix}").read_bytes()
  svg = xml.etree.ElementTree.parse(tmp_path / "a.svg")
  assert svg.getroot().attrib["width"] == "468pt"  # 6.5 inches
  assert not [e for e in svg.iter() if e.tag.endswith("}date")]
  assert dict(matplotlib.rcParams) == before


def test_nothing_to_draw_is_refused(tmp_path):
  out = tmp_path / "a"
  failed = [row(None, method="CLMR", epochs=1)]
  with pytest.raises(ValueError, match="None of the 1 rows has a score"):
    draw_curves(failed, out=out)
  with pytest.raises(ValueError, match=r"has a score in \['pr_auc'\]"):
    figures.heat_maps(results(failed), out, x="epochs", y="method")
  with pytest.raises(ValueError, match=r"0 rows has a score in \['accuracy'\]"):
    figures.score_dots(results([], ("accuracy",)), out)
  for draw in (training_figures.loss_terms, training_figures.losses):
    with pytest.raises(ValueError, match="'64'"):
      draw({"64": None}, out)
  runs = {"CLMR": {"metrics": None, "spectra": {}, "scores": [(1, None)]}}
  with pytest.raises(ValueError, match="'CLMR'"):
    training_figures.collapse(runs, out)
  assert not list(tmp_path.iterdir())


def test_bad_input_is_named(tmp_path):
  out = tmp_path / "a"
  with pytest.raises(ValueError, match=r"'CLMR'.* has no label 'size'"):
    draw_curves(curves(), x="size", out=out)
  twice = [*curves(), row(scores((1, 2)), method="CLMR", epochs=300, seed=1)]
  with pytest.raises(ValueError, match=r"'seed': 1.* are at one place"):
    draw_curves(twice, out=out)
  untimed = write(tmp_path / "m.jsonl", [{"step": 1, "train/loss": 2.0}])
  with pytest.raises(ValueError, match=r"m\.jsonl .* train/epoch"):
    training_figures.losses({"CLMR": untimed}, out)
  with pytest.raises(ValueError, match=r"cannot read .*none\.jsonl"):
    training_figures.losses({"CLMR": tmp_path / "none.jsonl"}, out)
  with pytest.raises(ValueError, match=r"cannot write .*m\.jsonl.a\.png"):
    figures.score_dots(results(curves()), untimed / "a")


def test_score_curves_are_of_the_suite_s_heads(saved):
  rows = [
    row({"logistic": {"roc_auc": 60 + p}, "knn": {"roc_auc": 50}}, e="a", p=p)
    for p in (1, 10)
  ]
  rows += [row({"knn": {"roc_auc": 40, "pr_auc": 30}}, e="b", p=10)]
  made = tables.Results(rows, [], ("roc_auc",), "", heads=("logistic", "knn"))
  draw_curves(made, x="p", group="e", log_x=True)
  assert drawn(saved[0].axes[0]) == {
    "a, logistic": [[1, 10], [61, 70]],
    "a, neighbours": [[1, 10], [50, 50]],
    "b, neighbours": [[10], [40]],
  }
  dashed = [line.is_dashed() for line in saved[0].axes[0].get_lines()]
  assert dashed == [False, True, True]
