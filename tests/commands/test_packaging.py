"""The build settings: what an installed package has."""

import importlib.metadata
import pathlib
import pkgutil
import tomllib

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / 'pyproject.toml').read_text())
SETUPTOOLS = SETTINGS['tool']['setuptools']


def test_all_packages_are_installed_and_the_configs_are_within():
  rooms = (ROOT / 'diffusion_distillation').rglob('__init__.py')
  names = ['.'.join(path.parent.relative_to(ROOT).parts) for path in rooms]
  configs = 'diffusion_distillation.configs'
  assert SETUPTOOLS['packages'] == sorted([*names, configs])
  assert SETUPTOOLS['package-dir'] == {configs: 'configs'}


def test_data_files_of_the_package_are_installed():
  package = ROOT / 'diffusion_distillation'
  files = {p for p in package.rglob('*') if p.is_file()}
  files = {p for p in files if p.suffix not in ('.py', '.pyc')}
  matched = {
    path
    for name, patterns in SETUPTOOLS['package-data'].items()
    for pattern in patterns
    for path in ROOT.joinpath(*name.split('.')).glob(pattern)
  }
  assert files == matched


def test_the_command_is_installed():
  (target,) = SETTINGS['project']['scripts'].values()
  assert callable(pkgutil.resolve_name(target))


def test_minimum_versions_are_not_below_those_of_the_dependencies():
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  ours = [Requirement(line) for line in lines if line and line[0] != '#']
  floors = {
    r.name.lower(): spec.version
    for r in ours
    for spec in r.specifier
    if spec.operator == '>='
  }
  for line in importlib.metadata.requires('chex'):
    theirs = Requirement(line)
    if theirs.marker is None and theirs.name in floors:
      assert floors[theirs.name] in theirs.specifier, line
