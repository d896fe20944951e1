"""Defaults and checks of the `augment` section of a config.

In plain Python: the operations (`augment.py`) need TensorFlow, a config does
not.
"""

VIEWS = 2  # of a clip, in a training step

FILTER_ZEROS = 8  # zero crossings of the filters' kernels
FILTER_HALF = 1024  # samples of the longest half kernel
MAX_SEMITONES = 7.0


def default_augment():
  """Probabilities and ranges of section 3.3.1, as plain nested dicts."""
  return {
    "polarity": {"p": 0.8},
    "noise": {"p": 0.01, "snr_db": 80.0},
    "gain": {"p": 0.3, "min_db": -6.0, "max_db": 0.0},
    "filter": {
      "p": 0.8,
      "highpass_p": 0.5,
      "highpass_hz": (200.0, 1200.0),
      "lowpass_hz": (2200.0, 4000.0),
    },
    "delay": {
      "p": 0.3,
      "delay_ms": (200.0, 500.0),
      "step_ms": 50.0,
      "factor": 0.5,
    },
    "pitch": {"p": 0.6, "semitones": (-5.0, 5.0)},
    "reverb": {
      "p": 0.6,
      "room_size": (0.0, 100.0),
      "reverberance": (0.0, 100.0),
      "damping": (0.0, 100.0),
    },
  }


def lowest_cutoff(sample_rate):
  """Hz of the lowest cut-off that the longest kernel can have."""
  return FILTER_ZEROS * sample_rate / (2 * FILTER_HALF)


def validate_augment(config, sample_rate):
  """Raises ValueError if a range is empty, or no filter has such a cut-off.

  The bounds of single values are in `config_limits.py`.
  """
  lowest, highest = lowest_cutoff(sample_rate), sample_rate / 2
  for op, values in config.items():
    for key, value in values.items():
      if not isinstance(value, (tuple, list)):
        continue
      path = f"augment.{op}.{key} is {value!r}"
      if len(value) != 2 or value[0] > value[1]:
        raise ValueError(f"{path}; it must be (lowest, highest)")
      if op == "filter" and not lowest <= value[0] <= value[1] <= highest:
        raise ValueError(f"{path}; it must be from {lowest:g} to {highest:g}")
  least, most = config["gain"]["min_db"], config["gain"]["max_db"]
  if least > most:
    raise ValueError(
      f"augment.gain.min_db is {least!r}; it must not exceed"
      f" augment.gain.max_db, {most!r}"
    )
