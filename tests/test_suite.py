"""Suites expand to the thesis's runs, survive, and their tables are right."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import warm
from absl import flags
from ml_collections import config_flags

from vicreg_jax import config_limits, plots, suite
from vicreg_jax.study import figures, plan, runner, tables, thesis

ROOT = pathlib.Path(__file__).parent.parent
SUITES = sorted((ROOT / "configs" / "suites").glob("*.py"))
THESIS = plan.Scale("thesis")
SMOKE = plan.Scale("smoke")


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
  monkeypatch.chdir(ROOT)


def jobs_of(names, scale):
  """{workdir: job} of the suites' members; the longest of CLMR's."""
  found = {}
  for name in names:
    loaded = plan.load(f"configs/suites/{name}.py", scale)
    for jobs in runner.members(loaded):
      for job in jobs:
        known = found.get(job.workdir)
        if known is None or known.work < job.work:
          found[job.workdir] = job
  return found


def parsed(job):
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", None, "", flag_values=values)
  flags.DEFINE_string("workdir", None, "", flag_values=values)
  argv = ["main", *job.flags("/root")]
  # config_flags looks there for the keys that are overridden.
  with mock.patch.object(sys, "argv", argv):
    values(argv)
    return values.config


@pytest.mark.parametrize("scale", (THESIS, SMOKE), ids=lambda s: s.name)
@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.stem)
def test_every_command_is_a_valid_run(path, scale):
  for job in jobs_of([path.stem], scale).values():
    config = parsed(job)
    config_limits.validate(config)
    # Nothing was lost or rounded on the way through the flags.
    flat = {k: v for k, v in job.overrides.items() if k != "checkpoint"}
    for key, value in flat.items():
      node = config
      for part in key.split("."):
        node = node[part]
      assert node == value, key
    if scale.smoke or config.job != "pretrain":
      continue
    assert config.batch_size % 8 == 0, "the cores of a v3-8"


def test_the_thesis_takes_sixty_runs():
  """Counted by hand: 6 for convergence (CLMR's lengths are one), then what is
  new in representation (4 and 4), transfer (3 and the supervised one), batch
  size (8), projector (2), and the grid (4 x 8)."""
  names = (
    *("convergence", "representation", "transfer", "batch_size"),
    *("loss_terms", "projector", "grid", "collapse"),
  )
  jobs = jobs_of(names, THESIS)
  runs = [j for j in jobs.values() if "probe" not in j.config]
  assert len(runs) == 6 + 8 + 4 + 8 + 2 + 32
  # Each is probed once, but CLMR's and VICReg's longest, at five epochs.
  probes = [j for j in jobs.values() if "probe" in j.config]
  assert len(probes) == len(runs) - 1 + 4 + 4  # not the supervised one


def test_suites_share_their_runs():
  middle = plan.pretrain(THESIS, "VICReg")
  assert middle == plan.pretrain(
    THESIS, "VICReg", epochs=1000, batch_size=768, size=512
  )
  for name in ("convergence", "representation", "batch_size", "grid"):
    assert jobs_of([name], THESIS)[middle.workdir] == middle
  # A workdir is one run, whatever suite asks for it (CLMR's may go on).
  seen = {}
  for path in SUITES:
    for jobs in runner.members(plan.load(path, THESIS)):
      for job in jobs:
        if not job.longer:
          assert seen.setdefault(job.workdir, job) == job


def test_commands_are_the_thesis():
  clmr = parsed(jobs_of(["convergence"], THESIS)["runs/clmr-fma-b256-d512"])
  assert clmr.epochs == 8000 and clmr.optim.schedule == "constant"
  assert clmr.checkpoint.keep_at_epochs == (300, 1000, 3000, 5000, 8000)
  assert tuple(clmr.model.projector) == (512, 128)
  assert clmr.valid_data.name == "magnatagatune"
  assert clmr.eval_every_epochs == 20
  crossed = jobs_of(["projector"], THESIS)
  vicreg = parsed(crossed["runs/vicreg-fma-b768-d512-e1000-clmr-projector"])
  assert tuple(vicreg.model.projector) == (512, 128)
  assert not vicreg.model.projector_batch_norm
  assert vicreg.loss.name == "vicreg"
  clmr = parsed(crossed["runs/clmr-fma-b256-d512-vicreg-projector"])
  assert tuple(clmr.model.projector) == (8196, 8196, 8196)
  assert clmr.model.projector_batch_norm and clmr.loss.name == "nt_xent"
  gtzan = jobs_of(["transfer"], THESIS)["runs/vicreg-gtzan-b768-d512-e8000"]
  assert (parsed(gtzan).data.name, parsed(gtzan).epochs) == ("gtzan", 8000)
  probe = jobs_of(["batch_size"], THESIS)[
    "runs/vicreg-fma-b64-d512-e1000/probe-1000"
  ]
  assert parsed(probe).data.name == "magnatagatune"
  assert parsed(probe).epoch == 1000
  assert parsed(probe).checkpoint == "/root/runs/vicreg-fma-b64-d512-e1000"


def test_objectives_differ_in_nothing_else():
  jobs = jobs_of(["objectives"], THESIS)
  runs = {
    j.workdir: parsed(j) for j in jobs.values() if "probe" not in j.config
  }
  vicreg = "runs/vicreg-fma-b768-d512-e1000"
  clmr = "runs/clmr-fma-b256-d512-vicreg-projector"
  for workdir, suite_ in ((vicreg, "convergence"), (clmr, "projector")):
    assert jobs[workdir] == jobs_of([suite_], THESIS)[workdir]
  others = {
    "runs/barlow-twins-fma-b768-d512-e1000": (vicreg, "barlow_twins"),
    "runs/sigreg-fma-b768-d512-e1000": (vicreg, "sigreg"),
    "runs/dcl-fma-b256-d512-vicreg-projector": (clmr, "dcl"),
  }
  assert set(runs) == {vicreg, clmr, *others}
  for workdir, (recipe, loss) in others.items():
    config = runs[workdir].to_dict()
    assert config["loss"]["name"] == loss
    config["loss"]["name"] = runs[recipe].loss.name
    assert config == runs[recipe].to_dict()
  assert {r.epochs for r in runs.values()} == {1000}
  assert {tuple(r.model.projector) for r in runs.values()} == {(8196,) * 3}


def test_label_efficiency_is_of_one_encoder_and_as_many_steps():
  jobs = jobs_of(["label_efficiency"], THESIS)
  shared = jobs_of(["transfer"], THESIS)
  trained, labelled = "runs/vicreg-mtat-b768-d512-e3000", "runs/supervised-mtat"
  assert jobs[trained] == shared[trained] and jobs[labelled] == shared[labelled]
  whole = parsed(jobs.pop(labelled))
  assert whole.train_fraction == 1
  for percent in (1, 5, 10, 25, 100):
    probe = parsed(jobs.pop(f"{trained}/labels-{percent}"))
    assert probe.probe.label_fraction == percent / 100
    assert probe.checkpoint == f"/root/{trained}" and probe.probe.untrained
    if percent < 100:
      run = parsed(jobs.pop(f"{labelled}-labels-{percent}"))
      assert run.train_fraction == percent / 100
      assert run.seed == probe.seed  # so the tracks are the same
      for key in ("epochs", "stop_patience", "eval_every_epochs"):
        assert run[key] * run.train_fraction == pytest.approx(whole[key])
  assert list(jobs) == [trained]


# --- running, with a stand-in for training -----------------------------------

# Does what its config says: fails, or takes some time and saves on SIGTERM.
STAND_IN = """
import json, os, pathlib, signal, sys, time
flags = dict(f[2:].split("=", 1) for f in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
with (workdir.parent.parent / "calls").open("a") as f:
  f.write(workdir.name + chr(10))
def save(*_):
  (workdir / "saved").touch()
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("step 1/2 (50.0%)", file=sys.stderr, flush=True)
if "bad" in workdir.name:
  sys.exit("error: a reason")
if workdir.name == "slow" and not (workdir / "saved").exists():
  (workdir / "ready").touch()
  time.sleep(600)
score = {"roc_auc": 50.0 + len(workdir.name), "pr_auc": 20.0}
(workdir / "probe.json").write_text(json.dumps({"linear": score}))
"""

TOY = """
from vicreg_jax.study import plan
def get_suite(scale):
  points = []
  for name in {names}:
    run = plan.Job("quickstart", f"runs/{{name}}", {{"epochs": 2}}, 2.0)
    probe = plan.Job("probe", f"runs/{{name}}-probe", {{"seed": 1}}, 1.0)
    thesis = {{"linear": {{"roc_auc": 60.0, "pr_auc": 25.0}}}}
    points.append(
      plan.Point({{"name": name}}, (run, probe), {{"linear": "linear"}},
                  thesis)
    )
  return plan.Suite("A toy", points, lambda results, stem, stamp: None)
"""


def on_a_stand_in(stand_in, *arguments):
  """The command, whose trainings and probes are the stand-in's."""
  runner.COMMAND = (sys.executable, stand_in)
  suite.main(arguments)


@pytest.fixture
def toy(tmp_path):
  """start(names, *flags) -> the process of a suite on the stand-in."""
  stand_in = tmp_path / "stand_in.py"
  stand_in.write_text(STAND_IN)

  def start(names, *arguments):
    (tmp_path / "toy.py").write_text(TOY.format(names=names))
    return warm.Process(
      on_a_stand_in,
      str(stand_in),
      f"--suite={tmp_path}/toy.py",
      f"--workdir={tmp_path}/w",
      *arguments,
      out=tmp_path / "out",
      err=tmp_path / "err",
    )

  return start


def calls(tmp_path):
  return (tmp_path / "w" / "calls").read_text().split()


def wait_for(path):
  deadline = time.monotonic() + 300
  while not path.exists():
    assert time.monotonic() < deadline, f"no {path}"
    time.sleep(0.05)


def test_what_fails_is_reported_and_the_rest_goes_on(toy, tmp_path):
  code, out, err = toy(("one", "bad", "two")).wait()
  assert code == 1
  assert calls(tmp_path) == ["one", "one-probe", "bad", "two", "two-probe"]
  assert "[2/6] runs/bad: FAILED with code 1, see" in err
  assert "    error: a reason" in err and "    step 1/2" in err
  assert "runs/bad-probe: skipped, as runs/bad is not finished" in err
  assert err.endswith("1 failed: runs/bad\n")
  assert "a reason" in (tmp_path / "w/runs/bad/log.txt").read_text()
  # 50 and the length of "one-probe".
  assert "| one | 59.00 | 60.00 | -1.00 |" in out
  assert "| ROC-AUC linear: ours | ROC-AUC linear: thesis |" in out
  assert "| bad | - | 60.00 | - |" in out
  # Once more: only what is not finished.
  _, _, err = toy(("one", "bad", "two")).wait()
  assert calls(tmp_path)[5:] == ["bad"]
  assert "[1/6] runs/one: was finished before" in err
  # Where data are makes no difference, and a study may be moved.
  toy(("one",), "--config.data.dir=elsewhere").wait()
  assert calls(tmp_path)[6:] == []
  # With another flag nothing is finished.
  toy(("one",), "--config.probe.max_epochs=3").wait()
  assert calls(tmp_path)[6:] == ["one", "one-probe"]
  log = (tmp_path / "w/runs/one/log.txt").read_text()
  assert log.count("--config.probe.max_epochs=3") == 1


@pytest.mark.parametrize("how", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_saves_and_the_same_command_goes_on(toy, tmp_path, how):
  process = toy(("one", "slow", "two"))
  wait_for(tmp_path / "w/runs/slow/ready")
  process.send_signal(how)
  code, _, err = process.wait()
  assert code == 75
  assert err.endswith("interrupted; run the same command to continue\n")
  assert "FAILED" not in err and "two" not in calls(tmp_path)
  code, *_ = toy(("one", "slow", "two")).wait()
  assert code == 0
  left = ["slow", "slow-probe", "two", "two-probe"]
  assert calls(tmp_path)[3:] == left


@pytest.mark.skipif(sys.platform != "linux", reason="a death signal of Linux")
def test_a_killed_suite_leaves_no_run_behind(toy, tmp_path):
  process = toy(("slow",))
  wait_for(tmp_path / "w/runs/slow/ready")
  process.kill()
  process.wait()
  wait_for(tmp_path / "w/runs/slow/saved")  # as on SIGTERM
  code, *_ = toy(("slow",)).wait()
  assert code == 0


def test_a_run_that_is_still_saving_is_waited_for(tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  code = (
    "import fcntl, pathlib, sys, time; f = open(sys.argv[1] + '/lock', 'a');"
    "fcntl.flock(f, fcntl.LOCK_EX); pathlib.Path(sys.argv[1], 'held').touch();"
    "time.sleep(2); pathlib.Path(sys.argv[1], 'released').touch()"
  )
  with subprocess.Popen([sys.executable, "-c", code, str(workdir)]):
    wait_for(workdir / "held")
    runner._wait_for_lock(str(workdir), lambda: False)
    assert (workdir / "released").exists()


def test_one_member_and_a_list(toy, tmp_path):
  _, out, _ = toy(("one", "two"), "--list").wait()
  assert not (tmp_path / "w").exists()
  assert out.splitlines()[-2:] == [
    "# 1: runs/two-probe",
    "python -m vicreg_jax.main --config=configs/probe.py"
    f" --workdir={tmp_path}/w/runs/two-probe --config.seed=1",
  ]
  toy(("one", "two"), "--only=1").wait()
  assert calls(tmp_path) == ["two", "two-probe"]
  _, _, err = toy(("one", "two"), "--only=2").wait()
  assert "use numbers from 0 to 1" in err
  toy(("one", "two"), "--only=1,1").wait()
  _, out, _ = toy(("one", "two"), "--collect").wait()
  assert calls(tmp_path) == ["two", "two-probe"]
  assert "| one | - |" in out and "| two | 59.00 |" in out


def test_errors_are_one_line(tmp_path, capsys):
  toy = tmp_path / "toy.py"
  toy.write_text(TOY.format(names=("one",)))

  def error(*arguments):
    with pytest.raises(SystemExit) as caught:
      suite.main([f"--suite={toy}", f"--workdir={tmp_path}/w", *arguments])
    text = str(caught.value)
    assert "\n" not in text
    return text if text.startswith("error") else capsys.readouterr().err

  assert "has such a key" in error("--config.no_key=1", "--list")
  assert "unknown argument --conf.seed=1" in error("--conf.seed=1")
  assert "nowhere.py is not there" in error("--suite=nowhere.py")
  (tmp_path / "bad.py").write_text("def get_suite(scale):\n  return 1 / 0")
  assert "line 2: Zero" in error(f"--suite={tmp_path}/bad.py")
  assert "has no get_suite" in error("--suite=configs/probe.py")
  (tmp_path / "w").write_text("a file")
  assert "error: cannot write" in error("--collect")
  (tmp_path / "w").unlink()
  assert "there is no such directory" in error("--collect")
  runner.check_workdir(f"{tmp_path}/w", THESIS)
  assert "of --scale=thesis" in error("--scale=smoke", "--collect")


def test_a_fault_of_ours_is_not_taken_for_the_users(tmp_path, monkeypatch):
  def broken(*_):
    np.zeros(2).reshape(3)

  monkeypatch.setattr(runner, "members", broken)
  (tmp_path / "toy.py").write_text(TOY.format(names=("one",)))
  with pytest.raises(ValueError, match="reshape"):
    suite.main([f"--suite={tmp_path}/toy.py", f"--workdir={tmp_path}/w"])


def test_a_longer_run_of_constant_rate_has_done_the_shorter(tmp_path, capsys):
  long = plan.pretrain(THESIS, "CLMR", epochs=8000)
  short = plan.pretrain(THESIS, "CLMR", epochs=1000)
  assert long.workdir == short.workdir
  root = str(tmp_path)
  (tmp_path / long.workdir).mkdir(parents=True)

  path = tmp_path / long.workdir / runner.FINISHED

  def finish(job):
    flags = runner._identity(job, [])
    content = {"flags": flags, "work": job.work}
    path.write_text(json.dumps(content))

  finish(long)
  assert runner._finished(short, [], root)
  other = dataclasses.replace(short, overrides=short.overrides | {"seed": 1})
  assert not runner._finished(other, [], root)
  finish(short)
  assert not runner._finished(long, [], root)
  path.write_text("{")
  assert not runner._finished(short, [], root)
  assert "is damaged and does not count" in capsys.readouterr().err


# --- tables ------------------------------------------------------------------


def test_repetitions_are_averaged(tmp_path):
  points = []
  for i, auc in enumerate((70.0, 76.0, 79.0)):
    run = plan.Job("folder", f"runs/{i}", {}, 1.0)
    (tmp_path / f"runs/{i}").mkdir(parents=True)
    scores = {"roc_auc": auc, "accuracy": 2 * i}
    text = json.dumps({"linear": scores, "untrained_mlp": {"roc_auc": 50.0}})
    (tmp_path / f"runs/{i}/probe.json").write_text(text)
    points.append(plan.Point({"encoder": "x"}, (run,), plan.HEADS))
  # One that was not run does not count.
  run = plan.Job("folder", "runs/none", {}, 1.0)
  points.append(plan.Point({"encoder": "x"}, (run,), plan.HEADS))
  heads = {"mlp": "untrained_mlp"}
  points.append(plan.Point({"encoder": "y"}, points[0].jobs, heads))
  made = plan.Suite("T", points, None, metrics=("roc_auc", "accuracy"))
  results = tables.collect(made, str(tmp_path))
  x, y = results.rows
  assert x["scores"]["linear"] == {"roc_auc": 75.0, "accuracy": 2.0}
  # Deviations -5, 1, 4: sqrt(42 / 2).
  assert x["spread"]["linear"]["roc_auc"] == pytest.approx(21**0.5)
  assert x["repetitions"] == 3 and y["spread"] is None
  text = tables.markdown(made, results, "a stamp")
  assert "a stamp" in text
  assert "| x | 75.00 ± 4.58 | - | 2.00 ± 2.00 | - |" in text
  assert "| y | - | 50.00 | - | - |" in text
  rows = list(csv.DictReader(io.StringIO(tables.table_csv(made, results))))
  assert rows[0]["ours"] == "75.0000" and rows[0]["spread"] == "4.5826"


def test_means_over_random_splits_are_a_head(tmp_path):
  (tmp_path / "run").mkdir()
  auc = {"roc_auc": {"mean": 60.0, "deviation": 3.0}}
  of_mfcc = auc | {"over_untrained": auc}
  splits = {"count": 10, "mfcc_knn": of_mfcc}
  found = {"knn": {"roc_auc": 50.0}, "splits": splits}
  (tmp_path / "run/probe.json").write_text(json.dumps(found))
  run = plan.Job("folder", "run", {}, 1.0)
  heads = {"knn": "knn", "splits/knn": "splits/mfcc_knn"}
  points = [plan.Point({"encoder": "x"}, (run,), heads)]
  made = plan.Suite("T", points, None, ("roc_auc",), tuple(heads))
  (row,) = tables.collect(made, str(tmp_path)).rows
  assert row["scores"] == {
    "knn": {"roc_auc": 50.0},
    "splits/knn": {"roc_auc": 60.0},
  }


def test_every_score_has_a_column_and_a_panel(tmp_path):
  (tmp_path / "run").mkdir()
  found = dict.fromkeys(plots.SCORES, 50.0)
  (tmp_path / "run/probe.json").write_text(json.dumps({"linear": found}))
  run = plan.Job("folder", "run", {}, 1.0)
  points = [plan.Point({"encoder": "x"}, (run,), plan.HEADS)]
  metrics = tuple(plots.SCORES)
  made = plan.Suite("T", points, figures.score_dots, metrics=metrics)
  results = tables.collect(made, str(tmp_path))
  first, _, row = tables.markdown(made, results, "").splitlines()[2:]
  assert "| ROC-AUC clip linear | ROC-AUC clip mlp |" in first
  assert row == "| x |" + " 50.00 | - |" * 5
  made.draw(results, str(tmp_path / "dots"), stamp="")
  assert (tmp_path / "dots.png").exists()
  for wrong in (("f1",), ()):
    with pytest.raises(ValueError, match=", roc_auc_clip"):
      plan.Suite("T", points, figures.score_dots, metrics=wrong)


def test_a_suite_may_have_other_heads(tmp_path):
  (tmp_path / "run").mkdir()
  found = {"linear": {"roc_auc": 50.0}, "mfcc_knn": {"roc_auc": 60.0}}
  (tmp_path / "run/probe.json").write_text(json.dumps(found))
  run = plan.Job("folder", "run", {}, 1.0)
  points = [
    plan.Point({"encoder": "x"}, (run,), {"linear": "linear"}),
    plan.Point({"encoder": "MFCCs"}, (run,), {"knn": "mfcc_knn"}),
  ]
  made = plan.Suite(
    "T", points, figures.score_dots, ("roc_auc",), heads=("linear", "knn")
  )
  results = tables.collect(made, str(tmp_path))
  *_, x, of_mfcc = tables.markdown(made, results, "").splitlines()
  assert (x, of_mfcc) == ("| x | 50.00 | - |", "| MFCCs | - | 60.00 |")


def test_what_was_measured_is_that_of_the_epoch(tmp_path):
  lines = [
    {"step": 1, "train/epoch": 0.5, "train/invariance": 9.0},
    {"step": 4, "train/epoch": 2.0, "train/invariance": 4.0},
    {"step": 4, "embedding/std": 0.1},
    {"step": 8, "train/epoch": 4.0, "train/invariance": 2.0},
    {"step": 8, "embedding/std": 0.2},
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "metrics.jsonl").write_text(text + '{"step": 9, "tra')
  keys = {"std": "embedding/std", "invariance": "train/invariance"}
  for epoch, std, invariance in ((2, 0.1, 4.0), (3.5, 0.1, 4.0), (4, 0.2, 2.0)):
    found = plan.last_values(str(tmp_path), epoch, keys)
    assert found == {"std": std, "invariance": invariance}
  assert plan.last_values(str(tmp_path), 4.5, keys) == {}  # not there yet
  assert plan.last_values(str(tmp_path / "none"), 4, keys) == {}


@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.stem)
def test_every_suite_draws_what_its_runs_left(path, tmp_path, monkeypatch):
  saved = []
  monkeypatch.setattr(plots, "save", lambda figure, path: saved.append(figure))
  loaded = plan.load(path, SMOKE)
  scores = dict.fromkeys(loaded.metrics, 66.0)
  lines = [
    {"step": e, "train/epoch": e, "train/loss": 5.0, "train/variance": 66.0}
    for e in (1, 400)
  ]
  for point in loaded.points:
    for job in point.jobs:
      run = tmp_path / job.workdir
      run.mkdir(parents=True, exist_ok=True)
      left = dict.fromkeys(point.heads.values(), scores)
      (run / "probe.json").write_text(json.dumps(left))
      text = "".join(json.dumps(line) + "\n" for line in lines)
      (run / "metrics.jsonl").write_text(text)
      if path.stem == "scaling":  # counts the encoders' parameters
        config = json.dumps(parsed(job).to_dict())
        (run / "config.json").write_text(config)
  results = tables.collect(loaded, str(tmp_path))
  loaded.draw(results, str(tmp_path / "figure"), stamp="a stamp")
  assert "| 66.0" in tables.markdown(loaded, results, "")
  assert len(saved) == (4 if path.stem in ("collapse", "objectives") else 2)
  assert saved[-1].get_supxlabel() == "a stamp"


def test_spectra_are_of_a_few_epochs(tmp_path):
  path = str(tmp_path / "metrics.jsonl")
  assert plan.spectra(None) == {}
  (tmp_path / "metrics.jsonl").write_text('{"step": 4, "train/epoch": 2.0}\n')
  (tmp_path / "diagnostics").mkdir()
  for step in range(2, 24, 2):  # 10 after 8, as numbers
    np.savez(
      tmp_path / f"diagnostics/{step}.npz",
      representation_singular=[step, 1.0],
      embedding_singular=[2.0 * step],
    )
  found = plan.spectra(path, most=3)
  assert list(found) == [1, 6, 11]  # steps 2, 12, 22
  np.testing.assert_array_equal(found[6][0], [12, 1])
  np.testing.assert_array_equal(found[11][1], [44])
  assert len(plan.spectra(path, most=99)) == 11


def test_published_scores_stand_in_their_rows(tmp_path):
  loaded = plan.load("configs/suites/convergence.py", THESIS)
  results = tables.collect(loaded, str(tmp_path))
  text = tables.markdown(loaded, results, "")
  # Table A.1, its first and last rows.
  want = "| CLMR | 300 | - | 87.52 | - | - | 88.12 | - | - | 33.40 | - | -"
  assert want in text
  assert "| VICReg | 8000 | - | 87.93 | - | - | 89.14 | - |" in text
  loaded = plan.load("configs/suites/transfer.py", THESIS)
  text = tables.markdown(loaded, tables.collect(loaded, str(tmp_path)), "")
  assert "| MusicCNN (cited) | MTAT | - | 89.00 | - |" in text
  assert len(tables.collect(loaded, str(tmp_path)).rows) == 8
  assert thesis.TABLE_4_1["VICReg", "FMA"]["mlp"]["pr_auc"] == 35.85


# --- the whole of it ---------------------------------------------------------


@pytest.mark.slow
def test_a_suite_at_smoke_scale(tmp_path):
  """Trains, probes, and draws; a second time there is nothing left to do."""
  command = [
    *(sys.executable, "-m", "vicreg_jax.suite"),
    *("--suite=configs/suites/objectives.py", "--scale=smoke"),
    "--only=1",
    f"--workdir={tmp_path}",
    f"--config.data.dir={tmp_path}/data",
    # Smaller still.
    *("--config.model.blocks=4", "--config.data.crop=243"),
    "--config.data.clip_seconds=0.2",
  ]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  out = tmp_path / "objectives"
  rows = list(csv.DictReader((out / "table.csv").open()))
  ours = [row for row in rows if row["ours"]]
  assert {row["objective"] for row in ours} == {"Barlow Twins"}
  assert len(ours) == 4 + 2  # metrics of heads, ranks
  for row in ours:
    assert 0 < float(row["ours"]) < 100
  table = (out / "table.md").read_text()
  assert plan.STAMP in table and "y RankMe" in table
  for figure in ("objectives", "objectives_spectra"):
    for suffix in (".png", ".svg"):
      assert os.path.getsize(out / f"{figure}{suffix}") > 10_000
  again = subprocess.run(command, capture_output=True, text=True)
  assert again.stderr.count("was finished before") == 2
  assert again.stdout == done.stdout
