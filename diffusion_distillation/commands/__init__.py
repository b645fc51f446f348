"""What the command line can do: the table of modes, and a file for each.

The table imports nothing, so that `--help` answers quickly.
"""

from typing import NamedTuple


class Mode(NamedTuple):
  """One value of --mode.

  Attributes:
    function: 'module:function'. Its parameters have the flags' names; `class_`
      is --class.
    help: one line on what it does.
    needs: names of the flags that must be given.
    takes: names of the flags that may be given.
  """

  function: str
  help: str
  needs: tuple[str, ...] = ()
  takes: tuple[str, ...] = ()


MODES = {
  'train': Mode(
    'diffusion_distillation.commands.train:train',
    'trains the teacher, distills the students, evaluates and reports',
    needs=('config', 'workdir'),
    takes=('coordinator', 'num_processes', 'process_id'),
  ),
  'sample': Mode(
    'diffusion_distillation.commands.sample:sample',
    'draws images from a checkpoint',
    needs=('checkpoint', 'out'),
    takes=('seeds', 'class', 'sampler', 'grid', 'num_steps', 'config'),
  ),
  'evaluate': Mode(
    'diffusion_distillation.commands.evaluate:evaluate',
    'measures a finished run, a checkpoint, or any images',
    takes=(
      'config',
      'workdir',
      'checkpoint',
      'images',
      'sampler',
      'grid',
      'num_steps',
    ),
  ),
  'likelihood': Mode(
    'diffusion_distillation.commands.likelihood:likelihood',
    'measures the bits per dimension of real images under a teacher',
    needs=('checkpoint',),
    takes=('config', 'split', 'num_images', 'num_steps', 'dequantization'),
  ),
  'interpolate': Mode(
    'diffusion_distillation.commands.interpolate:interpolate',
    'draws the images between those of seeds, or between given ones',
    needs=('checkpoint', 'out'),
    takes=(
      'seeds',
      'images',
      'num',
      'class',
      'sampler',
      'grid',
      'num_steps',
      'config',
    ),
  ),
  'encode': Mode(
    'diffusion_distillation.commands.encode:encode',
    'finds the noise of images, and draws them again from it',
    needs=('checkpoint', 'out'),
    takes=('images', 'iterations', 'class', 'grid', 'num_steps', 'config'),
  ),
  'report': Mode(
    'diffusion_distillation.commands.report:report',
    'writes the report of a finished run again',
    needs=('config', 'workdir'),
  ),
  'plan': Mode(
    'diffusion_distillation.commands.plan:plan',
    'prints the rounds of a config and what they cost; runs nothing',
    needs=('config',),
  ),
  'export': Mode(
    'diffusion_distillation.commands.export:export',
    'writes the weights of a checkpoint to one file',
    needs=('checkpoint', 'out'),
    takes=('config',),
  ),
}
