"""The scripts in launch/, against a gcloud that this machine pretends to be.

Nothing here reaches Google: `fake_gcloud.py` keeps the states of a TPU in
files, and runs for real what is sent over ssh, in a HOME for each worker. The
worker's Python is a shell script that notes how it was called, leaves
checkpoints in the bucket's directory, and ends as a test has planned.
"""

import ast
import os
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from vicreg_jax import main

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
LIBRARIES = ("common.sh", "env.sh")
OURS = (*LIBRARIES, "on_worker.sh")  # which others use, and nobody types
TYPED = [p.name for p in SCRIPTS if p.name not in OURS]
SETTINGS = {
  "PROJECT": "my-project",
  "ZONE": "europe-west4-a",
  "BUCKET": "my-bucket",
  "TPU_NAME": "my-tpu",
}

SLEEP = """#!/bin/bash
echo "$1" >>"$FAKE/slept"
exec /bin/sleep 0.02
"""

# The system's Python on a worker.
PYTHON3 = """#!/bin/bash
set -e
echo "$*" >>"$FAKE/installed.$WORKER"
case "$*" in
  "-m pip install --quiet --user uv") touch "$HOME/uv" ;;
  "-m uv venv "*)
    test -e "$HOME/uv"
    mkdir -p "${@: -1}/bin"
    cp "$FAKE/worker_bin/program" "${@: -1}/bin/python"
    ;;
  "-m uv pip install "*) test -e vicreg_jax/pyproject.toml ;;
  *) exit 2 ;;
esac
"""

# The virtual environment's. A plan's line is STEP:END, a line for each start:
# the step of the checkpoint that is saved, and how the run ends.
PROGRAM = r"""#!/bin/bash
count=$(find "$FAKE/started" -name "$WORKER.*" | wc -l)
printf '%s\0' "$PWD" "$JAX_PLATFORMS" "$@" >"$FAKE/started/$WORKER.$count"
plan=$(sed -n 1p "$FAKE/plan.$WORKER")
sed -i 1d "$FAKE/plan.$WORKER"
plan=${plan:-400:0}
for flag; do
  if [[ $flag == --workdir=gs://* ]]; then
    saved=$FAKE/bucket/${flag#--workdir=gs://}/checkpoints
  fi
done
if [[ $WORKER == 0 && $saved ]]; then
  mkdir -p "$saved/${plan%:*}"
  rmdir "$saved/0" 2>/dev/null
fi
echo "said on worker $WORKER"
case ${plan#*:} in
  preempted)
    if [[ -e $FAKE/queue ]]; then
      printf 'SUSPENDING\nSUSPENDED' >"$FAKE/queue"
      rm "$FAKE/vm"
    else
      echo PREEMPTED >"$FAKE/vm"
    fi
    kill -9 $PPID
    ;;
  killed) kill -9 $PPID ;;
  edited)
    echo changed >>"$FAKE/project/configs/vicreg_fma.py"
    exit 75
    ;;
  going)
    trap 'exit 75' TERM
    touch "$FAKE/going.$WORKER"
    for ((i = 0; i < 1500; i++)); do /bin/sleep 0.02; done
    exit 99
    ;;
  *) exit "${plan#*:}" ;;
esac
"""


class Cloud:
  """A project of Google's with nothing in it, and what it is asked."""

  def __init__(self, directory, workers=1):
    self.directory = directory
    self.workers = workers
    self.project = directory / "project"
    self.project.mkdir(parents=True)
    for name in ("launch", "configs"):
      shutil.copytree(ROOT / name, self.project / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
      shutil.copy(ROOT / name, self.project)
    (self.project / "vicreg_jax").mkdir()
    (self.project / "vicreg_jax" / "__init__.py").touch()
    for name in ("bin", "worker_bin", "started", "tmp", "bucket/my-bucket"):
      (directory / name).mkdir(parents=True)
    fake = pathlib.Path(__file__).with_name("fake_gcloud.py")
    gcloud = f'#!/bin/sh\nexec "{sys.executable}" -I -S "{fake}" "$@"\n'
    for name, text in (
      ("bin/gcloud", gcloud),
      ("bin/sleep", SLEEP),
      ("worker_bin/python3", PYTHON3),
      ("worker_bin/program", PROGRAM),
    ):
      (directory / name).write_text(text)
      (directory / name).chmod(0o755)
    self.write("new_vm", "CREATING", "READY")
    self.write("new_queue", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    self.faults()
    for worker in range(workers):
      self.write(f"plan.{worker}")

  def write(self, name, *lines):
    (self.directory / name).write_text("\n".join(lines))

  def faults(self, *faults):
    self.write("faults", repr(faults))

  def plan(self, *lines, worker=0):
    self.write(f"plan.{worker}", *lines)

  def run(self, script, *flags, code=0, **settings):
    """Runs a script of launch/; its stderr."""
    environment = {
      "HOME": str(self.directory),
      "TMPDIR": str(self.directory / "tmp"),
      "PATH": f"{self.directory / 'bin'}:/usr/bin:/bin",
      "FAKE": str(self.directory),
      "FAKE_WORKERS": str(self.workers),
    }
    environment |= SETTINGS | settings
    done = subprocess.run(
      [self.project / "launch" / script, *flags],
      env={k: v for k, v in environment.items() if v is not None},
      cwd=self.project,
      capture_output=True,
      text=True,
      timeout=300,
    )
    self.output = done.stdout
    assert done.returncode == code, done.stdout + done.stderr
    assert not list((self.directory / "tmp").iterdir())
    return done.stderr

  def calls(self, *words):
    """The calls of gcloud whose words begin so, as lists of arguments."""
    path = self.directory / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    calls = [ast.literal_eval(line) for line in lines]
    return [c for c in calls if c[: len(words)] == list(words)]

  def created(self):
    return self.calls("compute", "tpus", "tpu-vm", "create") + self.calls(
      "compute", "tpus", "queued-resources", "create"
    )

  def deleted(self):
    return self.calls("compute", "tpus", "tpu-vm", "delete")

  def started(self, worker=0):
    """[directory, JAX_PLATFORMS, argument...] of every start of Python."""
    paths = (self.directory / "started").glob(f"{worker}.*")
    return [
      path.read_text().split("\0")[:-1]
      for path in sorted(paths, key=lambda p: int(p.suffix[1:]))
    ]

  def slept(self):
    path = self.directory / "slept"
    return path.read_text().split() if path.exists() else []

  def home(self, worker=0):
    return self.directory / "home" / str(worker)

  def wait_for(self, path):
    end = time.monotonic() + 120
    while not (self.directory / path).exists():
      assert time.monotonic() < end, path
      time.sleep(0.01)

  def ready(self):
    """Makes a TPU that is set up."""
    self.run("create_tpu.sh")
    self.run("setup_tpu.sh")
    return self


@pytest.fixture
def cloud(tmp_path):
  return Cloud(tmp_path / "a cloud")  # every path has a space


@pytest.fixture
def pod(tmp_path):
  return Cloud(tmp_path / "a pod", workers=3)


WHERE = ["--project=my-project", "--zone=europe-west4-a", "--quiet"]


# The scripts themselves.


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_script_parses(script):
  subprocess.run(["bash", "-n", script], check=True)
  assert os.access(script, os.X_OK) == (script.name not in LIBRARIES)


def test_shellcheck():
  if not shutil.which("shellcheck"):
    pytest.skip("shellcheck is not installed")
  subprocess.run(["shellcheck", *SCRIPTS], check=True)


@pytest.mark.parametrize(
  "script, missing",
  [(script, list(SETTINGS)[i % 4]) for i, script in enumerate(TYPED)],
)
def test_a_missing_setting_is_named(cloud, script, missing):
  assert f"{missing}: set it to" in cloud.run(script, code=1, **{missing: None})
  assert not cloud.calls()


@pytest.mark.parametrize("script", TYPED)
def test_a_machine_without_gcloud_is_one_line(cloud, script):
  """Also of babysit.sh, which does not try again."""
  programs = cloud.directory / "programs"
  programs.mkdir()
  for name in ("bash", "basename", "date", "dirname", "mktemp", "rm"):
    (programs / name).symlink_to(shutil.which(name))
  job = ["pretrain"] if script == "babysit.sh" else []
  errors = cloud.run(script, *job, code=1, PATH=str(programs))
  assert "gcloud is not on the PATH" in errors and errors.count("\n") == 1
  assert not cloud.slept()


def test_a_wrong_setting_is_named(cloud):
  assert "SPOT is 'yes'" in cloud.run("create_tpu.sh", code=1, SPOT="yes")
  assert not cloud.calls()


# Creating.


@pytest.mark.parametrize("spot", "01")
def test_create_on_demand_or_spot(cloud, spot):
  cloud.run("create_tpu.sh", SPOT=spot, ACCELERATOR_TYPE="v3-32")
  (created,) = cloud.created()
  assert set(created) == {
    *("compute", "tpus", "tpu-vm", "create", "my-tpu", *WHERE),
    *("--version=tpu-ubuntu2204-base", "--accelerator-type=v3-32"),
    *(["--spot"] * int(spot)),
  }
  assert cloud.slept() == ["60"]  # CREATING, once


@pytest.mark.parametrize("spot", "01")
def test_create_queued(cloud, spot):
  errors = cloud.run("create_tpu.sh", SPOT=spot, QUEUED="1", POLL_SECONDS="7")
  (created,) = cloud.created()
  assert set(created) == {
    *("compute", "tpus", "queued-resources", "create", "my-tpu", *WHERE),
    *("--node-id=my-tpu", "--runtime-version=tpu-ubuntu2204-base"),
    *("--accelerator-type=v3-8", *(["--spot"] * int(spot))),
  }
  assert cloud.slept() == ["7"] * 3
  waited = re.findall(r"^\d{4}-\d\d-\d\dT\S+Z .* is queue-(\w+);", errors, re.M)
  assert waited == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


@pytest.mark.parametrize("queued", "01")
def test_create_twice_makes_one(cloud, queued):
  cloud.run("create_tpu.sh", QUEUED=queued)
  assert "is ready" in cloud.run("create_tpu.sh", QUEUED=queued)
  assert len(cloud.created()) == 1


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED", "STOPPED"])
def test_create_replaces_what_was_taken_away(cloud, state):
  cloud.write("vm", state)
  cloud.run("create_tpu.sh")
  assert len(cloud.deleted()) == len(cloud.created()) == 1


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_create_replaces_a_queued_resource_that_is_over(cloud, state):
  cloud.write("queue", state)
  cloud.run("create_tpu.sh", QUEUED="1")
  (deleted,) = cloud.calls("compute", "tpus", "queued-resources", "delete")
  assert set(deleted[4:]) == {"my-tpu", "--force", *WHERE}
  assert len(cloud.created()) == 1


@pytest.mark.parametrize("state", ["REPAIRING", "STARTING", "DELETING"])
def test_create_waits_for_what_passes(cloud, state):
  cloud.write("vm", state, "READY")
  assert f"is {state}; looking again" in cloud.run("create_tpu.sh")
  assert not cloud.created() + cloud.deleted()


@pytest.mark.parametrize("queued", "01")
def test_an_unanswered_question_is_no_absent_tpu(cloud, queued):
  asked = "queued-resources describe" if queued == "1" else "tpu-vm describe"
  cloud.faults(dict(on=asked, code=1, error="Reauthentication failed"))
  assert "Reauthentication" in cloud.run("create_tpu.sh", code=1, QUEUED=queued)
  assert not cloud.created()


def test_a_state_that_is_new_to_us_changes_nothing(cloud):
  cloud.write("vm", "MELTED")
  assert "MELTED" in cloud.run("create_tpu.sh", code=1)
  assert not cloud.created() + cloud.deleted()


# Setting up.


def test_setup_installs_on_every_worker(pod):
  pod.ready()
  for worker in range(3):
    home = pod.home(worker)
    for name in ("pyproject.toml", "configs/probe.py", "launch/on_worker.sh"):
      expected = (ROOT / name).read_bytes()
      assert (home / "vicreg_jax" / name).read_bytes() == expected
    assert (pod.directory / f"installed.{worker}").read_text().splitlines() == [
      "-m pip install --quiet --user uv",
      "-m uv venv --quiet --allow-existing --python 3.12 vicreg_venv",
      f"-m uv pip install -q --python {home}/vicreg_venv/bin/python"
      " -e ./vicreg_jax[tpu,gcs]",
    ]
  (copied,) = pod.calls("compute", "tpus", "tpu-vm", "scp")
  assert "--worker=all" in copied and set(WHERE) <= set(copied)


def test_setup_twice_leaves_the_newer_project(cloud):
  cloud.ready()
  (cloud.project / "configs" / "probe.py").unlink()
  (cloud.project / "configs" / "mine.py").write_text("")
  cloud.run("setup_tpu.sh", PYTHON_VERSION="3.13")
  configs = {p.name for p in (cloud.home() / "vicreg_jax/configs").iterdir()}
  assert "mine.py" in configs and "probe.py" not in configs
  assert "--python 3.13" in (cloud.directory / "installed.0").read_text()


def test_setup_leaves_the_code_of_a_run_alone(cloud):
  cloud.ready().plan("100:going")
  cloud.run("pretrain.sh")
  cloud.wait_for("going.0")
  (cloud.project / "configs" / "mine.py").write_text("")
  assert "a run is going on" in cloud.run("setup_tpu.sh", code=1)
  assert not (cloud.home() / "vicreg_jax/configs/mine.py").exists()
  stop(cloud, "vicreg_fma")


def stop(cloud, name):
  """Stops a run on every worker, as babysit.sh does."""
  for worker in range(cloud.workers):
    on_worker(cloud, "stop", name, worker=worker)


def on_worker(cloud, *arguments, worker=0):
  """Runs on_worker.sh as ssh would; its output."""
  return subprocess.run(
    ["bash", "vicreg_jax/launch/on_worker.sh", *arguments],
    cwd=cloud.home(worker),
    env={"HOME": str(cloud.home(worker)), "PATH": "/usr/bin:/bin"},
    check=True,
    capture_output=True,
    text=True,
    timeout=300,
  ).stdout


# Starting.

AWKWARD = """it's a "tag" table;  $HOME `id` \\ *?.csv"""


def test_pretrain_starts_on_every_worker_with_its_flags_intact(pod):
  pod.ready()
  pod.run(
    "pretrain.sh",
    f"--config.data.csv={AWKWARD}",
    "--config.model.projector=(64, 64)",
    RUN="my run's",
    CONFIG="configs/clmr_fma.py",
    BUCKET="gs://my-bucket/",
  )
  for worker in range(3):
    pod.wait_for(f"home/{worker}/vicreg_runs/my run's.exit")
    assert pod.started(worker) == [
      [
        f"{pod.home(worker)}/vicreg_jax",
        "tpu,cpu",
        "-m",
        "vicreg_jax.main",
        "--config=configs/clmr_fma.py",
        "--workdir=gs://my-bucket/runs/my run's",
        "--config.data.dir=gs://my-bucket/prepared",
        "--multihost",
        f"--config.data.csv={AWKWARD}",
        "--config.model.projector=(64, 64)",
      ]
    ]
    state = on_worker(pod, "status", "my run's", worker=worker)
    assert state == "vicreg_jax-state=exit:0\n"
    assert f"said on worker {worker}" in on_worker(
      pod, "log", "my run's", worker=worker
    )


def test_probe_reads_the_encoder_of_the_run(pod):
  pod.ready().run("probe.sh", DATA_DIR="gs://elsewhere/prepared")
  for worker in range(3):
    pod.wait_for(f"home/{worker}/vicreg_runs/vicreg_fma-probe.exit")
    ((_, platforms, *arguments),) = pod.started(worker)
    assert platforms == "tpu,cpu" and set(arguments[2:]) == {
      "--config=configs/probe_mtat.py",
      "--workdir=gs://my-bucket/runs/vicreg_fma-probe",
      "--config.data.dir=gs://elsewhere/prepared",
      "--config.checkpoint=gs://my-bucket/runs/vicreg_fma",
      "--multihost",
    }


def test_data_are_prepared_on_one_worker_that_leaves_the_tpu_alone(pod):
  pod.ready().run("prepare_data.sh", "--config.data.name=fma")
  pod.wait_for("home/0/vicreg_runs/prepare.exit")
  ((_, platforms, *arguments),) = pod.started(0)
  assert platforms == "cpu" and arguments[2:] == [
    "--config=configs/prepare.py",
    "--config.data.dir=gs://my-bucket/prepared",
    "--config.data.name=fma",
  ]
  assert not pod.started(1) + pod.started(2)


def test_a_run_is_started_once_and_outlives_the_connection(cloud):
  cloud.ready().plan("100:going")
  cloud.run("pretrain.sh")
  cloud.wait_for("going.0")
  assert "running" in on_worker(cloud, "status", "vicreg_fma")
  cloud.run("pretrain.sh")
  assert "vicreg_fma is going on" in cloud.run("probe.sh", code=1)
  stop(cloud, "another")  # is not the one that is going on
  assert "running" in on_worker(cloud, "status", "vicreg_fma")
  assert "lost" in on_worker(cloud, "status", "another")
  stop(cloud, "vicreg_fma")
  assert "exit:75" in on_worker(cloud, "status", "vicreg_fma")
  assert len(cloud.started()) == 1
  cloud.run("pretrain.sh")
  cloud.wait_for("home/0/vicreg_runs/vicreg_fma.exit")
  assert len(cloud.started()) == 2


def test_the_program_has_the_flags(cloud):
  cloud.ready()
  commands = []
  for script, name in (
    ("prepare_data.sh", "prepare"),
    ("pretrain.sh", "vicreg_fma"),
    ("probe.sh", "vicreg_fma-probe"),
  ):
    cloud.run(script)
    cloud.wait_for(f"home/0/vicreg_runs/{name}.exit")
    commands.append(cloud.started()[-1][4:])
  readme = (ROOT / "launch/README.md").read_text().replace("\\\n", "")
  for flags in re.findall("launch/babysit.sh prepare_data (.+)", readme):
    commands.append(["--config=configs/prepare.py", *shlex.split(flags)])
  assert len(commands) == 5
  for command in commands:
    flags = dict((f.removeprefix("--") + "=").split("=")[:2] for f in command)
    file = runpy.run_path(ROOT / flags.pop("config"))
    for flag in flags:
      if flag.startswith("config."):
        file["get_config"]()[flag.removeprefix("config.")]  # or KeyError
      else:
        assert flag in main.flags.FLAGS


# Fetching and deleting.


def test_fetch_leaves_checkpoints_unless_asked(cloud):
  run = cloud.directory / "bucket/my-bucket/runs/vicreg_fma"
  for name in ("metrics.jsonl", "figures/a.png", "checkpoints/100/x"):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(name)
  for _ in range(2):
    cloud.run("fetch.sh")
  here = cloud.project / "runs" / "vicreg_fma"
  assert (here / "figures" / "a.png").read_text() == "figures/a.png"
  assert (here / "metrics.jsonl").exists()
  assert not (here / "checkpoints").exists()
  assert not (here.parent / "vicreg_fma-probe").exists()
  cloud.run("fetch.sh", FETCH_CHECKPOINTS="1")
  assert (here / "checkpoints" / "100" / "x").exists()


@pytest.mark.parametrize("queued", "01")
def test_delete_is_thorough_and_can_be_repeated(cloud, queued):
  cloud.run("create_tpu.sh", QUEUED=queued)
  cloud.run("delete_tpu.sh")  # whichever way it was made
  assert not (cloud.directory / "vm").exists()
  assert not (cloud.directory / "queue").exists()
  errors = cloud.run("delete_tpu.sh")
  assert "no tpu-vm my-tpu" in errors
  assert "no queued-resources my-tpu" in errors
  assert "gcloud storage rm --recursive gs://my-bucket" in cloud.output
  assert (cloud.directory / "bucket/my-bucket").is_dir()


def test_delete_that_fails_is_loud_and_tries_the_rest(cloud):
  cloud.run("create_tpu.sh")
  cloud.faults(dict(on="queued-resources delete", code=1, error="no network"))
  errors = cloud.run("delete_tpu.sh", code=1)
  assert "no network" in errors and "NOT deleted" in errors
  assert not (cloud.directory / "vm").exists()


# Babysitting.


def checkpoints(cloud):
  run = cloud.directory / "bucket/my-bucket/runs/vicreg_fma/checkpoints"
  return sorted(int(p.name) for p in run.iterdir())


def test_babysit_from_nothing_to_the_end(cloud):
  errors = cloud.run("babysit.sh", "pretrain", "--config.seed=1")
  assert "exit code 0" in errors and "is billed" in errors
  assert "said on worker 0" in cloud.output
  assert checkpoints(cloud) == [400]
  assert cloud.started()[0][-2:] == ["--multihost", "--config.seed=1"]
  assert len(cloud.created()) == len(cloud.started()) == 1
  for line in errors.splitlines():
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \w+\.sh: ", line), line


@pytest.mark.parametrize("job", ["prepare_data", "probe"])
def test_babysit_knows_the_other_jobs(pod, job):
  pod.run("babysit.sh", job)
  assert [len(pod.started(w)) for w in range(3)] == (
    [1, 0, 0] if job == "prepare_data" else [1, 1, 1]
  )


@pytest.mark.parametrize(
  "stage, queued",
  [
    ("scp", "0"),
    ("on_worker.sh setup", "0"),
    ("on_worker.sh start", "1"),
    ("storage ls", "0"),
  ],
)
def test_babysit_survives_a_preemption_at(cloud, stage, queued):
  taken = {"vm": "PREEMPTED"}
  if queued == "1":
    taken = {"vm": "", "queue": "SUSPENDING\nSUSPENDED"}
  cloud.plan("100:75")
  cloud.faults(dict(on=stage, set=taken))
  cloud.run("babysit.sh", "pretrain", QUEUED=queued, SPOT="1")
  assert len(cloud.created()) == 2
  assert all("--spot" in call for call in cloud.created())
  assert checkpoints(cloud) == [100, 400]


@pytest.mark.parametrize("queued", "01")
def test_babysit_survives_a_preemption_while_the_tpu_is_made(cloud, queued):
  new = "new_queue" if queued == "1" else "new_vm"
  states = ["PROVISIONING", "SUSPENDING", "SUSPENDED"]
  cloud.write(new, *(states if queued == "1" else ["CREATING", "PREEMPTED"]))
  then = "ACTIVE" if queued == "1" else "CREATING\nREADY"
  cloud.faults(dict(on="delete", set={new: then}))
  cloud.run("babysit.sh", "pretrain", QUEUED=queued)
  assert len(cloud.created()) == 2 and checkpoints(cloud) == [400]


@pytest.mark.parametrize("queued", "01")
def test_babysit_continues_a_training_that_was_preempted(cloud, queued):
  cloud.plan("100:preempted", "200:75", "400:0")
  errors = cloud.run("babysit.sh", "pretrain", QUEUED=queued, MAX_FAILURES="2")
  assert len(cloud.created()) == 2 and len(cloud.started()) == 3
  assert len({tuple(arguments) for arguments in cloud.started()}) == 1
  assert re.findall(r"checkpoint (\d+); failure (\d)", errors) == [
    ("100", "1"),
    ("200", "1"),
  ]


def test_babysit_stops_at_an_error_of_the_program(cloud):
  cloud.plan("100:1")
  assert "exit code 1" in cloud.run("babysit.sh", "pretrain", code=1)
  assert "said on worker 0" in cloud.output
  assert len(cloud.started()) == 1 and not cloud.deleted()


def test_babysit_tells_a_dying_tpu_from_an_error(cloud):
  cloud.plan("100:1", "400:0")
  cloud.faults(dict(on="on_worker.sh stop", set={"vm": "PREEMPTED"}))
  cloud.run("babysit.sh", "pretrain")
  assert len(cloud.created()) == 2 and checkpoints(cloud) == [100, 400]


@pytest.mark.parametrize("end", ["killed", "134", "69"])
def test_babysit_starts_a_crashed_run_again(cloud, end):
  cloud.plan(f"100:{end}", "400:0")
  cloud.run("babysit.sh", "pretrain")
  assert len(cloud.created()) == 1 and len(cloud.started()) == 2


def test_babysit_gives_up_without_progress(cloud):
  cloud.plan("100:75", "200:75", "200:75", "200:75")
  errors = cloud.run("babysit.sh", "pretrain", code=75, MAX_FAILURES="3")
  assert re.findall(r"checkpoint (\d+); failure (\d)", errors) == [
    ("100", "1"),
    ("200", "1"),
    ("200", "2"),
    ("200", "3"),
  ]
  assert len(cloud.started()) == 4
  assert len(cloud.created()) == 2  # half-way another machine was tried


def test_babysit_replaces_a_tpu_that_does_not_answer(cloud):
  cloud.faults(dict(on="on_worker.sh", times=4, code=255))
  cloud.run("babysit.sh", "pretrain", MAX_FAILURES="3")
  assert len(cloud.created()) == 2 and checkpoints(cloud) == [400]


def test_babysit_gives_up_without_a_tpu_ever_more_slowly(cloud):
  cloud.faults(dict(on="tpu-vm create", times=9, code=1, error="no capacity"))
  errors = cloud.run("babysit.sh", "pretrain", code=75, MAX_FAILURES="9")
  assert len(cloud.created()) == errors.count("no capacity") == 9
  waited = list(map(int, cloud.slept()))
  assert waited == [60, 120, 240, 480, 960, 1920, 3840, 3840]


def test_babysit_without_an_answer_touches_nothing(cloud):
  cloud.ready().plan("100:going")
  cloud.run("pretrain.sh")
  cloud.wait_for("going.0")
  cloud.faults(dict(on="compute", times=99, code=1, error="no network"))
  cloud.run("babysit.sh", "pretrain", code=75, MAX_FAILURES="3")
  assert len(cloud.created()) == 1 and not cloud.deleted()
  cloud.faults()
  assert "running" in on_worker(cloud, "status", "vicreg_fma")
  stop(cloud, "vicreg_fma")


def test_babysit_finds_a_run_that_is_going_on(cloud):
  cloud.ready().plan("100:going")
  cloud.run("pretrain.sh")
  cloud.wait_for("going.0")
  # Else it would be watched to its end.
  cloud.faults(dict(on="on_worker.sh status", skip=2, code=255))
  errors = cloud.run("babysit.sh", "pretrain", code=75, MAX_FAILURES="1")
  assert "do not answer" in errors
  assert len(cloud.started()) == 1
  assert len(cloud.calls("compute", "tpus", "tpu-vm", "scp")) == 1
  stop(cloud, "vicreg_fma")


def test_babysit_packs_the_project_once(cloud):
  cloud.plan("100:edited", "400:0")
  cloud.run("babysit.sh", "pretrain")
  name = "configs/vicreg_fma.py"
  assert "changed" in (cloud.project / name).read_text()
  assert "changed" not in (cloud.home() / "vicreg_jax" / name).read_text()


@pytest.mark.parametrize("end", ["75", "killed", "134"])
def test_babysit_stops_the_rest_of_a_slice_and_starts_all_again(pod, end):
  pod.plan("100:going")
  pod.plan(f"0:{end}", worker=1)
  pod.plan("0:1", worker=2)  # lost its neighbour
  pod.run("babysit.sh", "pretrain", code=1 if end == "134" else 0)
  assert len(pod.created()) == 1
  starts = [len(pod.started(w)) for w in range(3)]
  # Beside an error of the program, a crash is what the error has led to.
  assert starts == ([1, 1, 1] if end == "134" else [2, 2, 2])
  assert on_worker(pod, "status", "vicreg_fma").endswith(
    "exit:75\n" if end == "134" else "exit:0\n"
  )


def test_babysit_waits_for_the_last_worker(pod):
  pod.plan("400:going")
  # Else it would wait as long as worker 0 goes on.
  pod.faults(dict(on="on_worker.sh status", skip=3, code=255))
  errors = pod.run("babysit.sh", "pretrain", code=75, MAX_FAILURES="1")
  assert errors.count("watching") == 3
  assert (pod.directory / "going.0").exists()
  stop(pod, "vicreg_fma")
