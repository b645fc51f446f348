"""Trains, distills, samples, measures: see README.md, or --help.

python main.py --config=configs/digits_distill.py --workdir=runs/digits
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from configs.original import ConfigFile
from diffusion_distillation.runtime import signals
from diffusion_distillation.runtime.errors import UserError

MODES = ('train', 'sample', 'evaluate', 'report', 'plan', 'export')

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The settings; --config.KEY=VALUE changes one.'
)
flags.FLAGS['config'].parser = ConfigFile(name='config')
_MODE = flags.DEFINE_enum(
  'mode', 'train', MODES, 'What to do; train does all that the config says.'
)
_OPTIONS = (
  _CONFIG,
  flags.DEFINE_string(
    'workdir', None, 'Run folder; the same command again resumes.'
  ),
  flags.DEFINE_string(
    'checkpoint', None, 'Checkpoint to sample, evaluate or export.'
  ),
  flags.DEFINE_string(
    'sampler', None, "How to sample; by default the checkpoint's."
  ),
  flags.DEFINE_integer(
    'num_steps', None, "Sampling steps; by default the checkpoint's.", 1, 2**20
  ),
  flags.DEFINE_string('seeds', '0-63', 'One image each: 0-63 or 1,5,9.'),
  flags.DEFINE_string('out', None, 'The file, or folder of PNGs, to write.'),
  flags.DEFINE_string(
    'images', None, 'What to evaluate: FILE.npz, FILE.zip, or a folder.'
  ),
  flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.'),
  flags.DEFINE_integer('num_processes', None, 'That train together.', 1),
  flags.DEFINE_integer('process_id', None, 'Of this one, from 0 on.', 0),
)

# What a wrong flag raises, and a config file that is not there.
_WRONG_FLAG = (flags.Error, LookupError, AttributeError, ValueError, TypeError)


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  options = {option.name: option.value for option in _OPTIONS}
  try:
    with signals.handled():
      # Imported here, so that --help and wrong flags answer at once.
      from diffusion_distillation import modes

      modes.run(_MODE.value, options)
  except (UserError, OSError) as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt as stop:
    signals.leave(f'stopped {stop}; the same command goes on')
  finally:
    signals.ignore()


def parse_flags(argv):
  """Returns the arguments that are no flags; ends with one line if any is bad.

  A config's unknown key is a KeyError or an AttributeError in ml_collections.
  """
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _CONFIG.value.lock()  # only a use shows that a file could not be read
  except (*_WRONG_FLAG, OSError) as error:
    message = ' '.join(str(error).split())
    if isinstance(error, KeyError | AttributeError):
      message = f'no such key in the config: {message}'
    sys.exit(f'error: {message}')
  if len(rest) > 1:
    sys.exit(f'error: {rest[1]!r} is no flag; flags start with --')
  return rest


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
