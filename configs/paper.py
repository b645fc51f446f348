"""Shared by the configs of the paper's data sets."""

from ml_collections import ConfigDict, config_dict


def tfds_args(**args):
  """Returns the `dataset.args` of a data set from TensorFlow Datasets."""
  return ConfigDict(
    {
      **args,
      # Whether training flips images left to right at random.
      'random_flip': True,
      # Folder of TensorFlow Datasets; None is its own default.
      'data_dir': config_dict.placeholder(str),
    }
  )


def set_rounds(config, start_num_steps):
  """Sets the paper's rounds, from a power of two steps down to one.

  Each has 50,000 updates; those to two and to one step have 100,000
  (section 5.2).
  """
  config.distillation.start_num_steps = start_num_steps
  students = [2**i for i in range(start_num_steps.bit_length() - 1)]
  config.distillation.steps_per_iter = {
    str(num_steps): 50_000 if num_steps > 2 else 100_000
    for num_steps in students
  }
