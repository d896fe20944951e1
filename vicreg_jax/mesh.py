"""The device mesh, the shardings over it, and named random streams.

One program runs on every device of every host. Arrays with a batch axis are
split over the mesh's only axis, "data"; everything else is replicated. Under
`jit` the arrays are global, so batch statistics and losses are over the global
batch by construction.
"""

import zlib

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
  """All devices of all hosts along one axis, "data"."""
  return Mesh(np.asarray(jax.devices()), ("data",))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis split over the devices."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def global_batch(mesh: Mesh, host_batch: np.ndarray) -> jax.Array:
  """The global array of which every host holds consecutive rows.

  Args:
    mesh: the mesh.
    host_batch: this host's rows, [B / hosts, ...]; hosts in process order.
  """
  return jax.make_array_from_process_local_data(
    batch_sharding(mesh), host_batch
  )


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

  Nothing random is saved: whoever knows seed, name and step has the key.
  """
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
  return jax.random.fold_in(key, step)
