"""The map of the package: its rooms, from the ground up.

    python -m vicreg_jax.rooms

prints the map that CONTRIBUTING.md shows. A module imports only modules of
rooms above its own, and modules before it in its room. So there are no circles,
and a reader can begin at the top. A test checks the imports.
"""

from typing import NamedTuple


class Room(NamedTuple):
  """A folder, or modules beside one another.

  Attributes:
    takes: what comes in.
    gives: what goes out.
    first: the module to open first.
    modules: in the order in which they may import one another.
    folder: whether the room is a folder; else its modules are at the top.
  """

  takes: str
  gives: str
  first: str
  modules: str
  folder: bool = True


ROOMS = {
  "ground": Room(
    "paths, devices, errors",
    "files, meshes, plots, an error's line; keys and limits of configs",
    "files",
    "files mesh plots messages python_file shipped cli checks rooms",
    folder=False,
  ),
  "data": Room(
    "audio files; records of decoded clips",
    "samples; crops, augmented views and batches of them",
    "input_pipeline",
    "on_beam tracks ffmpeg audio walk file_tags augment_config threads seeds"
    " freeverb pitch augment device_augment prepared records crops"
    " input_pipeline mfcc",
  ),
  "data.datasets": Room(
    "a folder, or a published data set",
    "its clips with labels, tracks and splits, decoded once into records",
    "base",
    "labels_table file_hashes pcm_cache reports base archives official folder"
    " fma gtzan magnatagatune mtg_jamendo nsynth composer instruments synthetic"
    " __init__",
  ),
  "model": Room(
    "crops; embeddings; gradients",
    "representations; losses; updates",
    "samplecnn",
    "losses optim view_norm samplecnn",
  ),
  "config": Room(
    "a file of configs/",
    "a config that is checked: every key, its default, its limits",
    "config",
    "config config_limits",
    folder=False,
  ),
  "training": Room(
    "batches of views, a config",
    "steps, checkpoints, metrics; a run that goes on where it stopped",
    "loop",
    "workdir best_checkpoint steps writer failed_save checkpoint loop",
  ),
  "use": Room(
    "a workdir, an export, foreign weights",
    "a frozen encoder: vectors and tags of audio; exports",
    "encoder",
    "pytorch_names pytorch_file clmr_onnx clmr heads export waveform pooling"
    " encoder warm_start import_weights hear",
  ),
  "library": Room(
    "a collection of audio files",
    "its table of vectors; neighbours, playlists, map",
    "embedding",
    "playlists audio_paths store following describe embedding tables made_by"
    " neighbours route songs colourings layout page serve",
  ),
  "evaluation": Room(
    "a frozen encoder, labelled clips",
    "scores with intervals: what a vector is worth",
    "clip_probes",
    "metrics bootstrap classifiers scores representations label_share"
    " other_vectors random_splits trained_heads clip_probes retrieval",
  ),
  "jobs": Room(
    "a config and a workdir",
    "what `main --config` runs: one a file, by its name",
    "pretrain",
    "prepare embed probe pretrain supervised",
  ),
  "verbs": Room(
    "files and flags",
    "what `python -m vicreg_jax VERB` runs: one a file, by its name",
    "options",
    "__init__ options embed tag playlist similar map export import_weights",
  ),
  "study": Room(
    "a suite of configs/suites/",
    "its runs, tables and figures; what a TPU would take",
    "plan",
    "thesis drawing figures training_figures plan tables runner tpu_estimate",
  ),
  "benchmarks.support": Room(
    "functions of ours and of peers",
    "their times in turns; music and networks to time them on",
    "timing",
    "timing music torch_twin",
  ),
  "benchmarks": Room(
    "flags",
    "what `bench NAME` measures: one a file, by its name",
    "pipeline",
    "decode augment pipeline step embed startup gpu",
  ),
  "doors": Room(
    "a command line",
    "the commands: main, suite, aot, bench; `load`",
    "main",
    "__init__ main aot bench suite __main__",
    folder=False,
  ),
}


def modules(name: str) -> list[str]:
  """The modules of a room, with dots, below the package."""
  room = ROOMS[name]
  prefix = f"{name}." if room.folder else ""
  return [prefix + module for module in room.modules.split()]


def order() -> list[str]:
  """All modules, each after those that it may import."""
  return [module for name in ROOMS for module in modules(name)]


def table() -> str:
  """The map in Markdown."""
  lines = ["| room | what comes in | what goes out | open first |"]
  lines.append("|---|---|---|---|")
  for name, room in ROOMS.items():
    folder = f"vicreg_jax/{name.replace('.', '/')}/" if room.folder else ""
    path = f"{folder or 'vicreg_jax/'}{room.first}.py"
    shown = f"`{name.replace('.', '/')}/`" if room.folder else name
    lines.append(
      f"| {shown} | {room.takes} | {room.gives} |"
      f" [`{room.first}.py`](../{path}) |"
    )
  return "\n".join(lines)


if __name__ == "__main__":
  print(table())
