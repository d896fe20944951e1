"""What a view of a clip is: how many there are, and how each is augmented.

Defaults and checks of the `augment` section of a config, in plain Python: the
operations themselves (`augment.py`) need TensorFlow, a config does not.
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
  """ValueError naming key, value and allowed values if `config` is unusable."""
  # Bounds of each number; for a key that holds a range, of both its ends.
  cutoff = (lowest_cutoff(sample_rate), sample_rate / 2)
  percent = (0.0, 100.0)
  bounds = {
    "noise.snr_db": (-100.0, 200.0),
    "gain.min_db": (-100.0, 100.0),
    "gain.max_db": (-100.0, 100.0),
    "filter.highpass_p": (0.0, 1.0),
    "filter.highpass_hz": cutoff,
    "filter.lowpass_hz": cutoff,
    "delay.delay_ms": (0.0, 60_000.0),
    "delay.step_ms": (1e-3, 60_000.0),
    "delay.factor": (-1.0, 1.0),
    "pitch.semitones": (-MAX_SEMITONES, MAX_SEMITONES),
    "reverb.room_size": percent,
    "reverb.reverberance": percent,
    "reverb.damping": percent,
  }

  def check_keys(path, given, allowed):
    if sorted(given) != sorted(allowed):
      raise ValueError(
        f"{path} has the keys {sorted(given)}; it must have exactly "
        f"{sorted(allowed)}. To switch an augmentation off, set its p to 0."
      )

  def check_number(path, value, low, high):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
      raise ValueError(
        f"{path} is {value!r}; it must be a number from {low:g} to {high:g}."
      )

  default = default_augment()
  check_keys("augment", config.keys(), default.keys())
  for op, defaults in default.items():
    check_keys(f"augment.{op}", config[op].keys(), defaults.keys())
    for key, like in defaults.items():
      path, value = f"augment.{op}.{key}", config[op][key]
      low, high = bounds.get(f"{op}.{key}", (0.0, 1.0))
      if not isinstance(like, tuple):
        check_number(path, value, low, high)
        continue
      if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{path} is {value!r}; it must be (lowest, highest).")
      for end in value:
        check_number(path, end, low, high)
      if value[0] > value[1]:
        raise ValueError(
          f"{path} is {value!r}; its lowest value must not exceed its highest."
        )
  gain_ = config["gain"]
  if gain_["min_db"] > gain_["max_db"]:
    raise ValueError(
      f"augment.gain.min_db is {gain_['min_db']!r}; it must not exceed "
      f"augment.gain.max_db, {gain_['max_db']!r}."
    )
