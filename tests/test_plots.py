"""The figures show the numbers that the run left."""

import json

import numpy as np
import pytest

from vicreg_jax import plots

STEPS = list(range(1, 101))
LOSS = [100 / s for s in STEPS]
RATE = [s / 100 for s in STEPS]


@pytest.fixture
def saved(monkeypatch):
  """The figures given to be saved, in place of files."""
  figures = []
  monkeypatch.setattr(plots, "save", lambda figure, _: figures.append(figure))
  return figures


@pytest.fixture
def metrics_path(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with open(path, "w") as f:
    for step, loss, rate in zip(STEPS, LOSS, RATE):
      line = {
        "step": step,
        "train/loss": loss,
        "train/covariance": None if step == 50 else -loss,
        "train/variance": 1 + rate,
        "train/learning_rate": rate,
        "train/examples_per_second": 3,
      }
      f.write(json.dumps(line) + "\n")
      if step % 20 == 0:
        line = {"step": step, "validation/loss": 2 * loss}
        f.write(json.dumps(line) + "\n")
    f.write('{"step": 101, "train/lo')  # a running job is mid-line
  return path


def data(line):
  return np.asarray(line.get_xdata()), np.asarray(line.get_ydata(), float)


def test_training_curves_show_the_file(metrics_path, saved):
  plots.training_curves(metrics_path, "unused.png")
  loss, variance, covariance, rate = saved[0].axes
  assert [ax.get_ylabel() for ax in saved[0].axes] == [
    "loss",
    "variance",
    "covariance",
    "learning\nrate",
  ]
  training, validation = loss.get_lines()
  np.testing.assert_array_equal(data(training), [STEPS, LOSS])
  np.testing.assert_array_equal(
    data(validation), [STEPS[19::20], [2 * v for v in LOSS[19::20]]]
  )
  legend = [text.get_text() for text in loss.get_legend().get_texts()]
  assert legend == ["training", "validation"]
  np.testing.assert_array_equal(data(rate.get_lines()[0]), [STEPS, RATE])
  gap = data(covariance.get_lines()[0])[1]
  assert np.flatnonzero(np.isnan(gap)).tolist() == [49]
  # Positive over a decade; positive over less; negative; the rate.
  scales = [ax.get_yscale() for ax in (loss, variance, covariance, rate)]
  assert scales == ["log", "linear", "linear", "linear"]


def test_per_tag_auc_sorts_and_pairs_its_bars(saved):
  rows = [
    {"tag": "guitar", "trained": 80.0, "untrained": 70.0},
    {"tag": "choir", "trained": 95.0, "untrained": 40.0},
    {"tag": "rare", "trained": float("nan"), "untrained": 60.0},
    {"tag": "slow", "trained": 60.0, "untrained": 65.0},
  ]
  plots.per_tag_auc(rows, "unused.png")
  (ax,) = saved[0].axes
  tags = [text.get_text() for text in ax.get_yticklabels()]
  assert tags == ["slow", "guitar", "choir"]  # upwards: the best on top
  trained, untrained = ax.containers
  assert [bar.get_width() for bar in trained] == [60, 80, 95]
  assert [bar.get_width() for bar in untrained] == [65, 70, 40]
  for place, (above, below) in enumerate(zip(trained, untrained)):
    assert below.get_y() < place < above.get_y() + above.get_height()
  assert ax.get_xlim() == (40, 100)
  assert ax.get_title() == "tags left out, AUC undefined: 1"
  assert len(rows) == 4 and rows[0]["tag"] == "guitar"  # the caller's order


def test_nothing_to_plot_is_refused(tmp_path, metrics_path):
  with pytest.raises(ValueError, match=r"cannot read .*none\.jsonl"):
    plots.training_curves(tmp_path / "none.jsonl", tmp_path / "a.png")
  other = tmp_path / "other.jsonl"
  other.write_text('{"step": 1, "roc_auc": 2}\n')
  with pytest.raises(ValueError, match=r"other\.jsonl has no loss.*roc_auc"):
    plots.training_curves(other, tmp_path / "a.png")
  row = {"tag": "a", "trained": float("nan"), "untrained": 50.0}
  with pytest.raises(ValueError, match="None of the 1 tags"):
    plots.per_tag_auc([row], tmp_path / "a.png")
  with pytest.raises(ValueError, match=r"cannot write .*a\.png"):
    plots.training_curves(metrics_path, other / "a.png")


def test_clips_show_the_counts(saved):
  seconds = {"train": [1.0, 1.0, 3.0], "test": [3.0]}
  dbfs = {"train": [-20.0, -20.0, -10.0], "test": [-120.0]}
  counts = {"train": [2, 0, 3], "test": [0, 1, 1]}
  plots.clips(seconds, dbfs, ("rock", "jazz", "pop"), counts, "unused.png")
  durations, loudness, labels = saved[0].axes

  def bars(ax):
    return [
      p.get_bbox() for p in ax.patches if p.get_width() and p.get_height()
    ]

  # The first and the last bin; the test clip stands on the training clip.
  assert [(round(b.x0, 2), round(b.x1, 2), b.y0, b.y1)
          for b in bars(durations)] == [
    (1.0, 1.05, 0, 2), (2.95, 3.0, 0, 1), (2.95, 3.0, 1, 2),
  ]  # fmt: skip
  assert min(b.x0 for b in bars(loudness)) == -120
  names = [t.get_text() for t in labels.get_yticklabels()]
  ends = {names[round((b.y0 + b.y1) / 2)]: b.x1 for b in bars(labels)}
  assert names == ["jazz", "rock", "pop"]
  assert ends == {"jazz": 1, "rock": 2, "pop": 4}
  legend = [t.get_text() for t in saved[0].legends[0].get_texts()]
  assert legend == ["train (3)", "test (1)"]
  plots.clips(seconds, dbfs, (), {"train": [], "test": []}, "unused.png")
  assert len(saved[1].axes) == 2
