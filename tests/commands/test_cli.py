"""The command line: flags, errors and help. The tests run no mode."""

import json
import os
import pkgutil
import signal
import subprocess
import sys

import pytest

from diffusion_distillation import commands
from diffusion_distillation.commands import cli
from diffusion_distillation.runtime import signals
from diffusion_distillation.runtime.errors import UserError

CONFIG = '--config=digits_distill'


def parse(*args):
  return cli.parse(['main.py', *args])


def error(*args):
  with pytest.raises(UserError) as caught:
    parse(*args)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def test_flags_become_the_values_of_the_mode():
  mode, values = parse(CONFIG, '--workdir=DIR', '--process_id=0')
  assert mode == 'train'
  assert values['workdir'] == 'DIR' and values['process_id'] == 0
  assert values['config'].dataset.name == 'digits'
  assert values.keys() == {'config', 'workdir', 'process_id'}


@pytest.mark.parametrize(
  'args',
  [
    ['--config.train.batch_size=7'],
    ['--config.train.batch_size', '7'],
    ['--config.train.batch_size=5', '--config.train.batch_size=7'],
  ],
)
def test_keys_of_the_config_are_changed(args):
  for where in ([CONFIG, *args], [*args, CONFIG]):
    assert parse('--mode=plan', *where)[1]['config'].train.batch_size == 7


def test_keys_keep_their_types():
  args = [
    '--config.model.args.ch_mult=(1,)',
    '--noconfig.model.eval_clip_denoised',
    '--config.teacher.train.num_updates=9',
    '--config.teacher.train.eval_every_steps=4',
    '--config.distillation.teacher_checkpoint_path=PATH',
    '--config.distillation.steps_per_iter={1: 5}',
    '--config.eval.samplers=("ddim", "ancestral:gamma=0.3")',
    '--config.train.learning_rate=1',
    '--config.eval.cache_dir=',
  ]
  config = parse('--mode=plan', CONFIG, *args)[1]['config']
  assert config.model.args.ch_mult == (1,)
  assert config.model.eval_clip_denoised is False
  assert config.teacher.train.num_updates == 9
  assert config.teacher.train.eval_every_steps == 4
  assert config.distillation.teacher_checkpoint_path == 'PATH'
  assert config.distillation.steps_per_iter == {1: 5}
  assert config.eval.samplers == ('ddim', 'ancestral:gamma=0.3')
  assert isinstance(config.train.learning_rate, float)
  assert not config.eval.cache_dir


def test_the_word_none_or_an_empty_text_sets_a_key_to_none():
  path, heads = 'distillation.teacher_checkpoint_path', 'model.args.num_heads'
  for args in (
    [f'--config.{path}=None', f'--config.{heads}=None'],
    [f'--config.{path}=x', f'--config.{path}=', f'--config.{heads}=None'],
    [f'--config.{heads}=3', f'--config.{heads}=None', f'--config.{path}='],
  ):
    config = parse('--mode=plan', CONFIG, *args)[1]['config']
    assert config.distillation.teacher_checkpoint_path is None
    assert config.model.args.num_heads is None
  # The last one counts.
  args = [f'--config.{heads}=None', f'--config.{heads}=3']
  assert (
    parse('--mode=plan', CONFIG, *args)[1]['config'].model.args['num_heads']
    == 3
  )


def test_a_tilde_is_the_home_folder(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  key = 'distillation.teacher_checkpoint_path'
  _, values = parse(CONFIG, '--workdir=~/runs', f'--config.{key}=~/teacher')
  assert values['workdir'] == '/home/me/runs'
  config = values['config']
  assert config.distillation.teacher_checkpoint_path == '/home/me/teacher'
  # Defaults are not expanded, so that cards do not name the home folder.
  assert config.eval.cache_dir is None
  assert config.compilation_cache_dir.startswith('~/')


# Python then writes to a pipe at its exit alone.
BUFFERED = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
WRONG = {
  'unknown key': (['--config.train.batchsize=3'], 'mean train.batch_size'),
  'unknown section': (['--config.trian.batch_size=3'], 'train.batch_size'),
  'no section': (['--config.learning_rate=3'], 'mean train.learning_rate'),
  'nothing near': (['--config.x=3'], 'configs/base.py lists all keys'),
  'key below a key': (['--config.seed.x=3'], 'unknown key --config.seed.x'),
  'index': (['--config.model.args.ch_mult[0]=3'], 'ch_mult[0]'),
  'index of none': (['--config.model.args.ch_mult[0]=None'], 'ch_mult[0]'),
  'type': (['--config.train.batch_size=many'], 'batch_size=many: invalid'),
  'fraction': (['--config.train.batch_size=8.5'], 'batch_size=8.5: invalid'),
  'section': (['--config.train=3'], 'not a dict'),
  'no value': (['--config.train.batch_size'], 'Missing value'),
  'unknown flag': (['--workdri=x'], '--workdri; did you mean --workdir?'),
  'odd flag': (['--zzz'], 'unknown flag --zzz; see --help'),
  'no flag': (['plan'], "'plan' is not a flag"),
  'unknown mode': (
    ['--mode=fly'],
    'train|sample|evaluate|interpolate',
  ),
  'bounds': (['--num_steps=0'], '--num_steps=0'),
  'no number': (['--num_steps=two'], '--num_steps=two'),
  'needed flag': ([], '--mode=train needs --workdir=DIR'),
  'not UTF-8': (['--workdir=x\udcff'], 'is not UTF-8; rename'),
  'empty flag': (['--workdir='], '--mode=train needs --workdir=DIR'),
  "another mode's": (
    ['--mode=plan', '--workdir=x'],
    '--mode=plan does not take --workdir; it takes --config',
  ),
}


@pytest.mark.parametrize(('args', 'message'), WRONG.values(), ids=WRONG)
def test_a_wrong_flag_gets_one_line(args, message):
  assert message in error(CONFIG, *args)


def test_a_key_needs_a_config():
  assert 'give --config=FILE.py as well' in error('--config.seed=3')
  assert error() == '--mode=train needs --config=FILE.py; see --help'


@pytest.mark.parametrize('mode', commands.MODES.values())
def test_each_mode_is_a_function_of_its_flags(mode):
  function = pkgutil.resolve_name(mode.function)
  code = function.__code__
  parameters = code.co_varnames[: code.co_argcount]
  assert {name.rstrip('_') for name in parameters} == {*mode.needs, *mode.takes}
  assert set(mode.needs) | set(mode.takes) <= set(cli._FLAGS)


def raising(exception):
  def mode(**values):
    raise exception

  return mode


@pytest.fixture
def failing(monkeypatch):
  """Returns a function: the exit of a command line whose mode raises."""

  def run(exception, *args):
    monkeypatch.setattr(
      pkgutil, 'resolve_name', lambda name: raising(exception)
    )
    with pytest.raises(SystemExit) as caught:
      cli.run(['main.py', CONFIG, '--mode=plan', *args])
    return caught.value.code

  return run


def test_errors_of_the_user_and_of_files_end_with_one_line(failing):
  assert failing(UserError('too few')) == 'error: too few'
  missing = FileNotFoundError(2, 'No such file or directory', 'x.npz')
  assert failing(missing) == 'error: No such file or directory: x.npz'


@pytest.mark.parametrize(
  'bug', [ValueError('a bug'), KeyError('x'), OSError('of no file')]
)
def test_a_bug_shows_its_traceback(failing, bug):
  with pytest.raises(type(bug)):
    failing(bug)


def test_debug_shows_the_traceback_of_a_user_s_error(failing):
  for flag in ('--debug', '--debug=true', '-debug'):
    with pytest.raises(UserError):
      failing(UserError('too few'), flag)
  assert failing(UserError('few'), '--debug=false') == 'error: few'


def test_a_run_that_was_stopped_has_its_own_status(failing, capsys):
  stopped = signals.Stopped('teacher at update 3')
  assert failing(stopped) == signals.STATUS
  assert capsys.readouterr().err == f'{stopped}\n'


@pytest.mark.parametrize(
  ('program', 'typed'),
  [
    ('main.py', 'python main.py'),
    ('/x/diffusion_distillation/__main__.py', 'python -m diffusion_distill'),
    ('/x/bin/diffusion-distillation', 'diffusion-distillation'),
  ],
)
def test_help_has_modes_flags_configs_and_examples(capsys, program, typed):
  cli.run([program, '--help'])
  text = capsys.readouterr().out
  for name, mode in commands.MODES.items():
    assert f'  {name} ' in text and mode.help in text
  assert '  digits_distill ' in text
  assert 'Handwritten digits from 64 sampling steps to 1.' in text
  assert '  paper ' not in text
  assert '--config.teacher.train.batch_size=64' in text
  assert text.count(f'  {typed}') == 4
  assert max(map(len, text.split('Configs')[0].splitlines())) <= 80


def test_a_closed_pipe_ends_the_program_quietly():
  """The pipe is closed as in `main.py --help | true`."""
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer) as stdout:
    done = subprocess.run(
      [sys.executable, '-m', 'diffusion_distillation', '--help'],
      stdout=stdout,
      stderr=subprocess.PIPE,
      check=False,
      env=BUFFERED,
    )
  assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b'')


@pytest.mark.parametrize(
  ('shell', 'want'),
  [('>&-', (0, '')), ('>/dev/full', (1, 'error: cannot write to stdout'))],
)
def test_a_stdout_that_is_closed_or_full_gives_no_traceback(shell, want):
  command = f'{sys.executable} -m diffusion_distillation --help {shell}'
  done = subprocess.run(
    command,
    shell=True,
    capture_output=True,
    text=True,
    env=BUFFERED,
    check=False,
  )
  assert done.returncode == want[0] and done.stderr.startswith(want[1])
  assert 'Traceback' not in done.stderr and done.stderr.count('\n') == want[0]


def test_help_and_wrong_flags_import_no_jax():
  code = (
    'import json, sys\n'
    'from diffusion_distillation.commands import cli\n'
    "cli.run(['main.py', '--help'])\n"
    'try:\n'
    "  cli.run(['main.py', '--config=digits_base', '--seed=3'])\n"
    'except SystemExit as exit:\n'
    "  print(json.dumps([exit.code, 'jax' in sys.modules]))\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  message, has_jax = json.loads(done.stdout.splitlines()[-1])
  assert message == 'error: unknown flag --seed; did you mean --seeds?'
  assert not has_jax
