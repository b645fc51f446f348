"""Finding, running and checking the file of --config."""

import pytest

from configs import base
from diffusion_distillation.commands import config_file
from diffusion_distillation.runtime.errors import UserError


def write(path, body):
  path.write_text(f'from . import base, digits_distill\n\n{body}\n')
  return str(path)


def error(text):
  with pytest.raises(UserError) as caught:
    config_file.load(text)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  'name', ['digits_distill', 'digits_distill.py', 'configs/digits_distill.py']
)
def test_our_configs_are_found_by_name_from_any_folder(
  tmp_path, monkeypatch, name
):
  monkeypatch.chdir(tmp_path)
  config = config_file.load(name)
  assert config.distillation.start_num_steps == 64


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'digits_distill.py', 'get_config = base.get_config')
  assert config_file.load('digits_distill.py').dataset.name is None


def test_a_copy_of_a_config_works_in_any_folder(tmp_path):
  body = (
    'def get_config():\n  config = digits_distill.get_config()\n'
    '  config.seed = 7\n  return config'
  )
  assert config_file.load(write(tmp_path / 'mine.py', body)).seed == 7


def test_the_text_after_a_colon_is_the_argument(tmp_path):
  body = (
    'def get_config(text):\n  config = base.get_config()\n'
    '  config.sampler = text\n  return config'
  )
  path = write(tmp_path / 'mine.py', body)
  assert config_file.load(f'{path}:ancestral:gamma=0').sampler == (
    'ancestral:gamma=0'
  )
  assert 'line 3: TypeError: get_config() missing' in error(path)


@pytest.mark.parametrize('name', ['configs/nothing.py', 'nothing', '.', '/x/y'])
def test_a_file_that_is_not_there_names_those_that_are(name):
  message = error(name)
  assert message.startswith(f'no config file {name}; configs/ has: cifar10_')
  assert 'digits_distill' in message and 'paper' not in message


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('  return 1 / 0', 'line 4: ZeroDivisionError: division by zero'),
    ('  raise SystemExit(3)', 'line 4: SystemExit: 3'),
    ('  import sys; sys.exit()', 'line 4: SystemExit'),
    ('  raise KeyboardInterrupt', 'line 4: KeyboardInterrupt'),
    ('  return base.get_config().trian', 'line 4: AttributeError: '),
    ('  import nothing', "line 4: ModuleNotFoundError: No module named '"),
    ('  return (', "line 4: SyntaxError: '(' was never closed"),
    ('  pass', 'line 3: TypeError: get_config() returns None, not a Config'),
    ('  return 3', 'line 3: TypeError: get_config() returns 3, not a Config'),
  ],
)
def test_a_file_that_fails_names_the_line(tmp_path, body, message):
  path = write(tmp_path / 'mine.py', f'def get_config():\n{body}')
  assert error(path).startswith(f'{path}, {message}')


def test_a_file_without_get_config_is_refused(tmp_path):
  path = write(tmp_path / 'mine.py', '')
  assert error(path).startswith(f'{path}: AttributeError: ')
  assert "no attribute 'get_config'" in error(path)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('config.train.batchsize = 3', 'unknown key train.batchsize; did you mean'),
    ('config.trian = 3', 'unknown key trian; configs/base.py lists all keys'),
    ('del config.train.grad_clip', 'the key train.grad_clip is missing'),
    ('del config.teacher', 'the key teacher is missing; start from base'),
    ('config = {**config, "train": 3}', 'train must be a section'),
    ('config = {**config, "eval": None}', 'eval must be a section'),
    ('config.dataset = {"name": "x", "args": 0}', 'dataset.args must be'),
  ],
)
def test_keys_are_those_of_the_base_config(tmp_path, change, message):
  body = (
    'from ml_collections import ConfigDict\n'
    f'def get_config():\n  config = ConfigDict(base.get_config().to_dict())\n'
    f'  {change}\n  return config'
  )
  path = write(tmp_path / 'mine.py', body)
  assert error(path).startswith(f'{path}: {message}')


def test_arguments_of_a_network_or_data_set_are_free(tmp_path):
  body = (
    'def get_config():\n  config = base.get_config()\n'
    '  config.model.args = {"width": 3}\n  config.dataset.args.path = "x"\n'
    '  return config'
  )
  config = config_file.load(write(tmp_path / 'mine.py', body))
  assert config.model.args.width == 3 and config.dataset.args.path == 'x'


def test_similar_keys_are_named():
  config = base.get_config()
  assert config_file.near('train.batchsize', config).startswith(
    '; did you mean train.batch_size or '
  )
  assert config_file.near('x', config) == '; configs/base.py lists all keys'


@pytest.mark.parametrize('name', ['digits_base.json', 'config.json'])
def test_a_file_that_is_not_python_is_not_run(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'config.json').write_text('{}')
  assert error(name) == (
    f'{name} is not a config file: give FILE.py, a Python file'
  )


def test_a_config_with_a_mistake_is_listed(tmp_path, monkeypatch):
  (tmp_path / 'mine.py').write_bytes(b'# My \xff.\ndef get_config(:')
  monkeypatch.setattr(config_file, '_folder', lambda: tmp_path)
  assert list(config_file.available()) == ['mine']


def test_every_config_has_a_description_of_one_line():
  found = config_file.available()
  assert {'digits_base', 'cifar10_distill'} <= found.keys()
  assert not {'__init__', 'base', 'google', 'paper'} & found.keys()
  for name, text in found.items():
    assert text.endswith('.') and len(text) < 80, name
