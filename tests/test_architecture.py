"""The rules of the architecture that a test can check."""

import ast
import importlib
import pathlib

import pytest
from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'diffusion_distillation'
FILES = sorted(PACKAGE.rglob('*.py'))
CONFIGS = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'google', 'paper')
)

# The folders of the package that each folder may import, besides itself.
GROUND = {'runtime', 'data'}
MIDDLE = GROUND | {'core', 'samplers', 'objectives', 'networks', 'checkpoints'}
ROOMS = {
  'core': set(),
  'data': {'runtime'},
  'runtime': set(),
  'samplers': {'core', 'runtime'},
  'objectives': {'core', 'runtime'},
  'networks': {'core', 'runtime'},
  'checkpoints': MIDDLE - {'checkpoints'},
  'training': MIDDLE,
  'generation': MIDDLE,
  'evaluation': MIDDLE,
  'report': MIDDLE | {'training', 'generation', 'evaluation'},
  'commands': MIDDLE | {'training', 'generation', 'evaluation', 'report'},
}
# Imports and calls that are allowed in one place only.
ALONE = {
  'orbax': 'checkpoints/store.py',
  'pmap': 'runtime/devices.py',
  'tensorflow_datasets': 'data/tfds.py',
}


def imports(path):
  """Yields the dotted names that a file imports, at any depth."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
  room = path.relative_to(PACKAGE).parts[0]
  for name in imports(path):
    if name.startswith('diffusion_distillation.') and room in ROOMS:
      assert name.split('.')[1] in ROOMS[room] | {room}, f'{path}: {name}'
    if room == 'core':
      assert name.split('.')[0] not in ('flax', 'ml_collections'), name


@pytest.mark.parametrize(('what', 'where'), ALONE.items())
def test_some_things_happen_in_one_file_alone(what, where):
  for path in FILES:
    names = {name.split('.')[0] for name in imports(path)}
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute):
        names.add(node.attr)
    if what in names:
      assert path == PACKAGE / where


def test_every_folder_is_a_room():
  assert {path.parent.name for path in PACKAGE.glob('*/__init__.py')} == {
    *ROOMS
  }


def leaves(config):
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      yield from leaves(value)
    else:
      yield key


@pytest.mark.parametrize('name', CONFIGS)
def test_every_key_of_a_config_is_read_by_the_package(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  words = set()
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute):
        words.add(node.attr)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        words.update(node.value.split('.'))
      elif isinstance(node, ast.arg):
        words.add(node.arg)
      elif isinstance(node, ast.AnnAssign):
        words.add(ast.unparse(node.target))
  dead = [key for key in leaves(config) if key not in words]
  assert not dead


def test_public_functions_have_docstrings():
  for path in FILES:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), path
    for node in tree.body:
      if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        continue
      if not node.name.startswith('_') and node.name != 'main':
        assert ast.get_docstring(node), f'{path}: {node.name}'
