"""The device mesh, the shardings over it, and named random streams.

One program runs on every device of every host. Arrays with a batch axis are
split over the mesh's only axis, "data"; everything else is replicated. Under
`jit` the arrays are global, so batch statistics and losses are over the global
batch by construction.

With several hosts all processes run the same program in step. If they differ in
some value, all must learn of it before the next computation over all devices,
or they wait for each other forever: hence `gather`, `any_host` and
`first_host_first`.
"""

import contextlib
import functools
import itertools
import socket
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The first host may decode a whole data set while the others wait.
_PATIENCE_MS = 24 * 3600 * 1000
_meetings = itertools.count()  # a barrier's name serves once


class DeviceError(ValueError):
  """No device can be used here now, but perhaps elsewhere, or later."""

  exit_code = 69  # EX_UNAVAILABLE of sysexits.h


def join_hosts(
  coordinator: str | None, num_processes: int | None, process_id: int | None
):
  """Joins the other processes of a run. Call it before any use of JAX.

  Args:
    coordinator: HOST:PORT at which all can reach process 0.
    num_processes, process_id: their number, and this one's. All three arguments
      are None where the platform knows them (TPU pods, Slurm).

  Raises:
    ValueError: the arguments contradict each other, or the others cannot be
      joined.
  """
  given = {
    "--coordinator": coordinator,
    "--num_processes": num_processes,
    "--process_id": process_id,
  }
  lacking = [flag for flag, value in given.items() if value is None]
  if 0 < len(lacking) < len(given):
    raise ValueError(
      f"--multihost lacks {' and '.join(lacking)}: give all of"
      f" {', '.join(given)}, or none on a TPU pod, which knows them"
    )
  if not lacking and not 0 <= process_id < num_processes:
    raise ValueError(
      f"--process_id={process_id} is not one of --num_processes="
      f"{num_processes}: processes count from 0 to {num_processes - 1}"
    )
  if coordinator is not None:  # JAX would try for minutes
    _check_resolves(
      coordinator.rpartition(":")[0].strip("[]"),
      f"--coordinator={coordinator}: its name",
    )
  # JAX's own handler would hide SIGTERM from the jobs: trainings agree on a
  # step to stop at, and other jobs end at once.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  except (RuntimeError, ValueError, OSError) as e:
    raise ValueError(
      f"--multihost: the hosts cannot be joined ({' '.join(str(e).split())});"
      " outside of TPU pods name them with --coordinator=HOST:PORT,"
      " --num_processes=N and --process_id=I"
    ) from e


def _check_resolves(name, named):
  """Raises ValueError if a host's name leads to no address."""
  try:
    socket.getaddrinfo(name, None)
  except OSError as e:
    raise ValueError(
      f"{named} {name} does not resolve ({e.strerror or e}): add the name to"
      " the DNS or to /etc/hosts"
    ) from e


def is_first_host() -> bool:
  """Whether this process writes the files that one process writes for all."""
  # A single process does not open its devices here: others may hold them.
  return not jax.distributed.is_initialized() or jax.process_index() == 0


@contextlib.contextmanager
def first_host_first():
  """Runs a block on the first host, and then on the others at once.

  For files that are made unless they exist: with a shared disk or bucket the
  other hosts find them; with disks of their own they make them, too.
  """
  if not is_first_host():
    wait_for_hosts()
  try:
    yield
  finally:  # also after an error: the others must not wait
    if is_first_host():
      wait_for_hosts()


def wait_for_hosts():
  """Returns when every host has come here."""
  if jax.distributed.is_initialized():
    # Through the coordinator and not the devices, whose patience is short.
    from orbax.checkpoint import multihost

    wait = multihost.get_barrier_sync_fn()
    wait(key=f"hosts {next(_meetings)}", timeout_ms=_PATIENCE_MS)


def gather(*values: int) -> np.ndarray:
  """Every host's values, [hosts, values] int32; waits for all of them."""
  rows = multihost_utils.process_allgather(np.asarray(values, np.int32))
  return np.reshape(rows, (jax.process_count(), len(values)))


def any_host(devices: Mesh) -> Callable[[bool], jax.Array]:
  """A function that tells all hosts whether the flag of any of them is set.

  The function only dispatches a step: `bool(result)` waits for it.
  """
  reduce = jax.jit(jnp.any, out_shardings=replicated(devices))

  def set_anywhere(flag: bool) -> jax.Array:
    flags = np.full(len(devices.local_devices), flag)
    return reduce(global_batch(devices, flags))

  return set_anywhere


def make_mesh() -> Mesh:
  """All devices of all hosts along one axis, "data", host after host.

  Raises:
    DeviceError: no device can be used.
    ValueError: there are other hosts, and `join_hosts` was not called; or this
      host's own name does not resolve.
  """
  try:
    devices = sorted(jax.devices(), key=lambda d: d.process_index)
  except Exception as e:  # each platform has its own
    if jax.distributed.is_initialized():
      # By that name hosts of CPUs connect to one another.
      _check_resolves(socket.gethostname(), "--multihost: this host's own name")
    raise DeviceError(
      f"no device can be used ({' '.join(str(e).split()) or repr(e)}). If"
      " another process holds the TPU, end it (sudo lsof -w /dev/accel* tells"
      " which; of one that is dead, remove /tmp/libtpu_lockfile). If there is"
      " none, unset JAX_PLATFORMS or set it to cpu"
    ) from e
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise ValueError(
      f"this is one of {jax.process_count()} hosts: run the command on each of"
      " them with --multihost"
    )
  return Mesh(np.asarray(devices), ("data",))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis split over the devices."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def global_batch(mesh: Mesh, host_batch: np.ndarray) -> jax.Array:
  """The global array of every host's consecutive rows.

  Args:
    mesh: the mesh.
    host_batch: this host's rows, [B / hosts, ...]; hosts in process order.
  """
  return jax.make_array_from_process_local_data(
    batch_sharding(mesh), host_batch
  )


def share_batch(mesh: Mesh, batch: np.ndarray) -> jax.Array:
  """The global array of a batch [B, ...] that every host has whole."""
  share = len(batch) // jax.process_count()
  first = share * jax.process_index()
  return global_batch(mesh, batch[first : first + share])


def replicate(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """The array, which every host has whole, on every device."""
  return jax.make_array_from_process_local_data(replicated(mesh), array)


def check_batch(batch_size: int, mesh: Mesh):
  """Raises ValueError unless the batch splits evenly over the devices."""
  if batch_size % mesh.size:
    near = max(batch_size // mesh.size, 1) * mesh.size
    raise ValueError(
      f"batch_size is {batch_size}, which {mesh.size} devices cannot share"
      f" evenly: use a multiple of {mesh.size}, {near} for example"
    )


def stream_key(seed: int, stream: str, step: int = 0) -> jax.Array:
  """The key of a named stream at a step: fold_in(seed, stream, step).

  No random state is saved: seed, name and step give the key.
  """
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
  return jax.random.fold_in(key, step)


def compiler_options(devices: Mesh) -> dict[str, str] | None:
  """Options of `jax.jit` for programs on these devices.

  On CPUs jaxlib 0.10 hands products and sums to YNNPACK, which copies whole
  weights first: VICReg's projector alone makes a step three times as long.
  """
  if devices.devices.flat[0].platform != "cpu":
    return None
  return _known_options("xla_cpu_experimental_ynn_fusion_type")


@functools.cache
def _known_options(name):
  """The option, set to nothing; None for a jaxlib that has no such option."""
  options = {name: ""}
  try:
    jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return None
  return options
