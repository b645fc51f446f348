"""What the configs of the paper's data sets share."""

from ml_collections import ConfigDict, config_dict


def prepared(**args):
  """Returns the `dataset.args` of a set from TensorFlow Datasets."""
  return ConfigDict(
    {
      **args,
      'random_flip': True,
      # Where TensorFlow Datasets keeps its data; absent: its own default.
      'data_dir': config_dict.placeholder(str),
    }
  )


def set_paper_ladder(config, start_num_steps):
  """Sets the paper's rounds from a power of two steps down to one.

  They have 50,000 updates, and 100,000 to two and to one step (section 5.2).
  """
  config.distillation.start_num_steps = start_num_steps
  students = [2**i for i in range(start_num_steps.bit_length() - 1)]
  config.distillation.steps_per_iter = {
    str(num_steps): 50_000 if num_steps > 2 else 100_000
    for num_steps in students
  }
