"""Stands in for gcloud: knows the commands that launch/ uses, and no others.

All state is files in $FAKE:
  calls           the arguments of every call, as a Python list a line
  vm, queue       states that `describe` reports, a line each; the last stays
  new_vm, new_queue   what `vm` and `queue` become when one is created
  faults          what goes wrong, see `fault`
  home/N/         HOME of worker N, where ssh really runs its command
  bucket/         what lies in the bucket

Hundreds of calls wait for its start: run it by `python -I -S`, and import no
more than this.
"""

import os
import sys

FAKE = os.environ["FAKE"]
WORKERS = int(os.environ["FAKE_WORKERS"])
COMMON = {"--project", "--zone", "--quiet"}
FLAGS = {
  "compute tpus tpu-vm create": {"--version", "--accelerator-type", "--spot"},
  "compute tpus tpu-vm describe": {"--format"},
  "compute tpus tpu-vm delete": set(),
  "compute tpus tpu-vm ssh": {"--worker", "--command"},
  "compute tpus tpu-vm scp": {"--worker"},
  "compute tpus queued-resources create": {
    *("--node-id", "--runtime-version", "--accelerator-type", "--spot")
  },
  "compute tpus queued-resources describe": {"--format"},
  "compute tpus queued-resources delete": {"--force"},
  "storage ls": set(),
  "storage rsync": {"--recursive", "--exclude"},
}


def path(*names):
  return os.path.join(FAKE, *names)


def read(name):
  """The states in a file; none if the resource is not there."""
  try:
    with open(path(name)) as f:
      return f.read().split()
  except FileNotFoundError:
    return []


def write(name, text):
  with open(path(name), "w") as f:
    f.write(text)


def remove(name):
  if os.path.exists(path(name)):
    os.remove(path(name))


def copy(source, target):
  os.makedirs(os.path.dirname(target), exist_ok=True)
  with open(source, "rb") as f, open(target, "wb") as g:
    g.write(f.read())


def fail(text, code=1):
  print(f"ERROR: (gcloud) {text}", file=sys.stderr)
  sys.exit(code)


def new_machines():
  os.spawnlp(os.P_WAIT, "rm", "rm", "-rf", path("home"))
  for worker in range(WORKERS):
    os.makedirs(path("home", str(worker)))


def state_of(name):
  """The state now; next time it is the following one."""
  states = read(name)
  if not states:
    fail(f"NOT_FOUND: Resource 'projects/p/{name}' was not found")
  if len(states) > 1:
    write(name, "\n".join(states[1:]))
  return states[0]


def fault(line):
  """Applies the first fault that is meant for this call.

  {"on": text that the call contains, "skip": calls to let pass, "times": then
  so many, "set": {file: states, or "" to remove it}, "error": stderr, "code":
  its exit code; without one the call goes on}.
  """
  with open(path("faults")) as f:
    faults = eval(f.read())
  for found in faults:
    if not found.setdefault("times", 1) or found["on"] not in line:
      continue
    if found.get("skip", 0):
      found["skip"] -= 1
      write("faults", repr(faults))
      continue
    found["times"] -= 1
    write("faults", repr(faults))
    for name, text in found.get("set", {}).items():
      write(name, text) if text else remove(name)
    if "code" in found:
      fail(found.get("error", "INTERNAL: try again"), found["code"])
    return


def workers_of(flags):
  if read("vm")[:1] != ["READY"]:
    fail(f"TPU is not ready: {read('vm')}", 255)
  which = flags["--worker"]
  return range(WORKERS) if which == "all" else [int(which)]


def ssh(words, flags):
  codes = []
  for worker in workers_of(flags):
    home = path("home", str(worker))
    environment = {
      "HOME": home,
      "PATH": path("worker_bin") + ":/usr/bin:/bin",
      "FAKE": FAKE,
      "WORKER": str(worker),
    }
    child = os.fork()
    if not child:
      os.chdir(home)
      os.execve("/bin/bash", ["bash", "-c", flags["--command"]], environment)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
  sys.exit(next((code for code in codes if code), 0))


def scp(words, flags):
  source, target = words
  for worker in workers_of(flags):
    copy(source, path("home", str(worker), target.split(":", 1)[1]))


def create(kind, flags):
  name = "vm" if kind == "tpu-vm" else "queue"
  if read(name):
    fail(f"ALREADY_EXISTS: Resource {name} already exists")
  copy(path(f"new_{name}"), path(name))
  if name == "vm":
    new_machines()


def describe(kind, flags):
  if kind == "tpu-vm":
    assert flags["--format"] == "value(state)"
    return print(state_of("vm"))
  assert flags["--format"] == "value(state.state)"
  state = state_of("queue")
  if state == "ACTIVE" and not read("vm"):
    write("vm", "READY")
    new_machines()
  print(state)


def delete(kind, flags):
  state_of("vm" if kind == "tpu-vm" else "queue")  # fails if there is none
  if kind == "queued-resources":
    if "--force" not in flags and read("vm"):
      fail("FAILED_PRECONDITION: the queued resource has nodes")
    remove("queue")
  remove("vm")


def storage(verb, words, flags):
  folder = path("bucket", words[0].removeprefix("gs://").rstrip("/"))
  if not os.path.isdir(folder):
    fail("One or more URLs matched no objects.")
  if verb == "ls":
    for name in sorted(os.listdir(folder)):
      slash = "/" * os.path.isdir(os.path.join(folder, name))
      print(f"{words[0]}{name}{slash}")
    return
  if not os.path.isdir(words[1]):
    fail(f"Destination {words[1]} must be an existing directory")
  import re  # slow to import

  for base, _, names in os.walk(folder):
    for name in names:
      relative = os.path.relpath(os.path.join(base, name), folder)
      if not re.match(flags.get("--exclude", "$"), relative):
        source = os.path.join(folder, relative)
        copy(source, os.path.join(words[1], relative))


def main(arguments):
  with open(path("calls"), "a") as f:
    f.write(f"{arguments}\n")
  fault(" ".join(arguments))
  flags = dict((a.split("=", 1) + [""])[:2] for a in arguments if a[:2] == "--")
  words = [a for a in arguments if a[:2] != "--"]
  command = next((c for c in FLAGS if words[: len(c.split())] == c.split()), "")
  words = words[len(command.split()) :]
  unknown = set(flags) - COMMON - FLAGS.get(command, set())
  if not command or unknown:
    fail(f"Invalid choice or unrecognized arguments: {arguments}", 2)
  if "--project" not in flags or (command[0] == "c" and "--zone" not in flags):
    fail("PROJECT or ZONE is missing", 2)
  verb = command.split()[-1]
  if verb in ("ls", "rsync"):
    storage(verb, words, flags)
  elif verb in ("ssh", "scp"):
    {"ssh": ssh, "scp": scp}[verb](words, flags)
  else:
    assert len(words) == 1, words
    actions = {"create": create, "describe": describe, "delete": delete}
    actions[verb](command.split()[2], flags)


if __name__ == "__main__":
  main(sys.argv[1:])
