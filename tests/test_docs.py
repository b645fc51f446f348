"""Figures, commands and code in README, docs and config headers are true."""

import functools
import importlib
import json
import pathlib
import re
import shlex
from unittest import mock

import numpy as np
import pytest

import diffusion_distillation
from benchmarks import catalogue, readme, results
from configs import base
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.commands import MODES, cli
from diffusion_distillation.core.parameterization import HEADS
from diffusion_distillation.data.dataset import DATASETS, load_dataset
from diffusion_distillation.evaluation.classifier import Classifier
from diffusion_distillation.evaluation.inception import RESIZES
from diffusion_distillation.networks.denoiser import NETWORKS
from diffusion_distillation.objectives import OBJECTIVES
from diffusion_distillation.report import labels, paper
from diffusion_distillation.runtime import run_folder, signals
from diffusion_distillation.samplers import GRIDS, SAMPLERS
from diffusion_distillation.training import plan
from tests.checkpoints import toy
from tests.report import examples as reports
from tests.test_main import run

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ['README.md', *sorted(f'docs/{p.name}' for p in ROOT.glob('docs/*.md'))]
TABLES = (DATASETS, GRIDS, HEADS, NETWORKS, OBJECTIVES, SAMPLERS)
NEIGHBOURS = (
  'cifar10_tract',
  'cifar10_consistency',
  'imagenet64_multistep_consistency',
)
H200_FLOP_PER_HOUR = 0.4 * 989e12 * 3600


@functools.cache
def text_of(page):
  return (ROOT / page).read_text()


def fenced(text, language=''):
  """Returns the code blocks of a language."""
  blocks = re.findall(r'^```(\w*)\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
  return [block for found, block in blocks if found == language]


def first_column(page, heading):
  """Returns the names in backticks in the first column of a table."""
  table = text_of(page).split(f'\n| {heading} |')[1].split('\n\n')[0]
  cells = [line.split('|')[1] for line in table.splitlines()[2:]]
  return [name for cell in cells for name in re.findall(r'`([^`]+)`', cell)]


@pytest.mark.parametrize(
  ('name', 'millions', 'rounds'),
  [
    ('cifar10', '60.0M', 13),
    ('imagenet64', '295.9M', 10),
    ('lsun_bedroom128', '139.6M', 10),
  ],
)
def test_plan_needs_no_data(name, millions, rounds, capsys):
  assert run(f'--config=configs/{name}_distill.py', '--mode=plan') is None
  out = capsys.readouterr().out
  assert f'({millions})' in out
  students = [line for line in out.splitlines() if line.startswith('student')]
  assert len(students) == rounds
  assert [line.split()[1] for line in students[-3:]] == [
    '50,000',
    '100,000',
    '100,000',
  ]


@pytest.mark.parametrize(('page', 'name'), readme.blocks())
def test_generated_texts_are_up_to_date(page, name):
  make = readme.blocks()[page, name]
  _, block, _ = readme.split(text_of(page), name)
  assert block == make(), 'run python -m benchmarks.readme'


@pytest.mark.figures
def test_a_comparison_of_samplers_is_published(tmp_path, monkeypatch):
  for module in readme, results:
    monkeypatch.setattr(module, 'RESULTS', tmp_path)
  assert results.comparison('samplers') == ''
  folder = tmp_path / 'run' / 'report'
  folder.mkdir(parents=True)
  report = reports.samplers()
  report |= {'config': {'seed': 5}, 'command': 'main.py --workdir=/a/run'}
  (folder / 'report.json').write_text(json.dumps(report))
  readme.publish('samplers', [tmp_path / 'run'], ['seconds'])
  published = tmp_path / 'samplers' / 'seed_5.json'
  told = json.loads(published.read_text())['command']
  assert told == 'main.py --workdir=runs/samplers'
  assert (tmp_path / 'samplers' / 'by_seconds.png').stat().st_size > 10_000
  lines = results.comparison('samplers').splitlines()
  (student,) = [line for line in lines if 'student, stochastic' in line]
  assert student.split('|')[2].strip() == '1.28 ± 0.05 / 0.71 / \N{EN DASH}'
  (heun,) = [line for line in lines if line.startswith('| teacher, Heun |')]
  assert [cell.split()[-1] for cell in heun.split('|')[2:5]] == [
    *('(3)', '(7)', '(15)')
  ]
  assert any('**' in line for line in lines)


@pytest.mark.parametrize('name', [*catalogue.PAPER, *NEIGHBOURS])
def test_the_headers_of_large_configs_state_their_cost(name):
  _, _, costs = catalogue.costs_of(name)
  teacher, students = costs[:1], costs[1:]
  said = docstring(name)
  updates = sum(each.num_updates for each in students)
  rounds = f'{len(students)} round{"s" if len(students) > 1 else ""}'
  assert (
    f'{rounds}, {updates // 1000}k updates in all, '
    f'{catalogue.flop(students)} FLOP (--mode=plan), after '
    f'{catalogue.flop(teacher)} for the teacher;'
  ) in said
  hours = [
    sum(each.flops for each in part) / H200_FLOP_PER_HOUR
    for part in (students, teacher)
  ]
  (found,) = re.findall(r'; ([\d,]+) and ([\d,]+) hours of one H200', said)
  assert [float(text.replace(',', '')) for text in found] == pytest.approx(
    hours, rel=0.05
  )


def docstring(name):
  return ' '.join(importlib.import_module(f'configs.{name}').__doc__.split())


@pytest.mark.parametrize('name', catalogue.PAPER)
def test_the_headers_of_the_paper_s_configs_are_true(name):
  config, denoiser, costs = catalogue.costs_of(name)
  of_base, of_distill = (
    docstring(name.replace('_distill', '_base')),
    docstring(name),
  )
  assert f'{plan.num_parameters(denoiser) / 1e6:.1f}M parameters' in of_base
  assert f'{catalogue.flop(costs[:1])} FLOP' in of_base
  (said,) = re.findall(r'; (\d+) hours of one H200', of_base)
  hours = costs[0].flops / H200_FLOP_PER_HOUR
  assert float(said) == pytest.approx(hours, rel=0.05)
  fid = paper.curves({'label': 'FID', 'dataset': config.dataset.name})
  for steps, value in fid.get(('student', 'ddim'), {}).items():
    if steps <= 8:
      digits = 3 if config.dataset.name == 'cifar10' or steps in (1, 8) else 2
      assert f'{value:#.{digits}g} with {steps}' in of_distill


def test_the_table_of_memory_has_our_parameters():
  for name in catalogue.SCALING:
    _, denoiser, _ = catalogue.costs_of(name)
    count = plan.num_parameters(denoiser)
    row = f'| `{name.removesuffix("_distill")}` | {count / 1e6:.1f}M |'
    state = 20 * count / 1e9
    state = f'{state:.2f} GB' if state > 0.1 else f'{1000 * state:.0f} MB'
    assert f'{row} {state} |' in text_of('docs/scaling.md')


def test_the_time_of_the_digits_run_is_stated_once():
  notebook = 'notebooks/diffusion_distillation.ipynb'
  for page in (*PAGES, notebook, 'CHANGELOG.md'):
    assert not re.search(r'\d [Mm]inutes', text_of(page)), page
  header = importlib.import_module('configs.digits_distill').__doc__
  assert len(re.findall(r'\d minutes', header)) == 1


def test_the_headers_of_the_digits_configs_are_true():
  report = results.read_report('digits')
  found = {
    (row['network'], row['num_steps']): row['frechet_distance']
    for row in report['rows']
    if row['sampler'] == 'ddim'
  }
  of_base, of_distill = (
    ' '.join(importlib.import_module(f'configs.digits_{name}').__doc__.split())
    for name in ('base', 'distill')
  )
  teacher = f'Expect: a Frechet distance of {found["teacher", 64]:.2f}'
  assert f'{teacher} with 64 DDIM steps.' in of_base
  assert (
    f'{teacher} for the teacher with 64 steps, and for the students '
    f'{found["student", 4]:.2f} with 4 and {found["student", 1]:.2f} with 1, '
    f'where the teacher has {found["teacher", 4]:.1f} and '
    f'{found["teacher", 1]:.0f}.'
  ) in of_distill


def test_the_digits_classifier_has_the_stated_accuracy():
  heldout = load_dataset('digits', {}).heldout
  images, labels_ = (
    np.stack([example[key] for example in heldout])
    for key in ('image', 'label')
  )
  found = Classifier('digits')(images).probabilities.argmax(axis=-1)
  right = np.mean(found == labels_)
  assert f'{right:.1%}'.replace('%', ' %') in text_of('docs/evaluation.md')


def test_the_readme_is_short():
  text = text_of('README.md')
  assert len(text.splitlines()) <= 150
  table = readme.split(text, 'results')[1]
  assert {line.count('|') for line in table.splitlines()} == {7}


def test_tables_of_names_are_complete():
  assert sorted(first_column('README.md', 'mode')) == sorted(MODES)
  assert first_column('docs/data.md', '`dataset.name`') == list(DATASETS)
  assert first_column('docs/evaluation.md', '`eval.resize`') == list(RESIZES)
  keys = {
    'num_steps',
    'nfe',
    'paper',
    *first_column('docs/evaluation.md', 'key in `report.json`'),
  }
  errors = {column.error for column in labels.COLUMNS.values()}
  assert keys - errors == set(labels.COLUMNS)
  keys = text_of('docs/running.md').split('\n| what | keys |')[1]
  keys = set(re.findall(r'`([^`]+)`', keys.split('\n\n')[0]))
  changeable = run_folder._CHANGEABLE
  assert keys == {key.removeprefix('teacher.') for key in changeable}
  statuses = re.findall(
    r'^\| (\d+) \|', text_of('docs/running.md'), re.MULTILINE
  )
  assert statuses == ['0', '1', str(signals.STATUS)]


def known_keys():
  """Returns the dotted names of all keys and sections of our configs."""
  names = set()

  def add(section, prefix):
    for key, value in section.items():
      names.add(f'{prefix}{key}')
      if hasattr(value, 'items'):
        add(value, f'{prefix}{key}.')

  add(base.get_config(), '')
  for name in ('folder_distill', 'cifar10_distill', 'digits_distill'):
    add(importlib.import_module(f'configs.{name}').get_config(), '')
  return names


@pytest.mark.parametrize('page', [*PAGES, 'CHANGELOG.md'])
def test_keys_of_configs_exist(page):
  text, known = text_of(page), known_keys()
  if page == 'CHANGELOG.md':
    text = text.replace('model.logvar_type', 'sampler')
  names = set(re.findall(r'--config\.([a-z_]\w*(?:\.\w+)*)', text))
  sections = '|'.join(base.get_config())
  names |= set(re.findall(rf'`(?:config\.)?((?:{sections})\.\w[\w.]*)', text))
  theirs = {'dataset.args.randflip', 'model.logvar_type'}
  if page != 'docs/google.md':
    theirs = set()
  unknown = names - known - theirs
  assert not [name for name in unknown if not name.endswith(('.json', '.py'))]


def commands():
  """Returns the arguments of the commands in all pages."""
  found = []
  for page in PAGES:
    for block in fenced(text_of(page)):
      for line in block.splitlines():
        rest = line.partition('python main.py')[2]
        if rest and '[' not in line:
          found.append(pytest.param(rest, id=f'{page}:{rest[:60]}'))
  return found


@pytest.mark.parametrize('command', commands())
def test_commands_are_understood(command, tmp_path):
  if 'THEIRS' in command:
    path = tmp_path / 'theirs.py'
    path.write_text('from configs.cifar10_distill import get_config\n')
    pytest.importorskip('configs.google')
    command = command.replace('configs/google.py:THEIRS.py', 'cifar10_distill')
  mode, values = cli.parse(['main.py', *shlex.split(command)])
  assert mode in MODES and values


@pytest.mark.parametrize(
  'page', [*PAGES, 'CHANGELOG.md', 'benchmarks/README.md']
)
def test_links_and_paths_lead_somewhere(page):
  folder = (ROOT / page).parent
  text = text_of(page)
  for target in re.findall(r'(?:\]\(|src=")([^)"]+)', text):
    if target.startswith('http'):
      continue
    path, _, anchor = target.partition('#')
    path = folder / path if path else ROOT / page
    assert path.exists(), target
    if anchor:
      headings = re.findall(r'^#+ (.*)$', path.read_text(), re.MULTILINE)
      slugs = [
        re.sub(r'[^\w -]', '', h).lower().replace(' ', '-') for h in headings
      ]
      assert anchor in slugs, target
  for name in re.findall(r'`((?:\w+/)+\w+\.py)`', text):
    if 'NAME' not in name:
      paths = [ROOT / name, ROOT / 'diffusion_distillation' / name]
      assert any(path.exists() for path in paths), name


def examples():
  """Returns the sections of docs/extending.md."""
  sections = text_of('docs/extending.md').split('\n## ')[1:]
  return [pytest.param(text, id=text.partition('\n')[0]) for text in sections]


@pytest.fixture
def tables():
  """Puts the tables back that an example adds a row to."""
  patches = [mock.patch.dict(table) for table in TABLES]
  for patch in patches:
    patch.start()
  yield
  for patch in patches:
    patch.stop()


def run_blocks(text, folder):
  """Runs the code blocks; one that begins with '# NAME.py' is that file."""
  scope = {}
  for number, block in enumerate(fenced(text, 'python')):
    if match := re.match(r'# (\w+\.py)\n', block):
      (folder / match[1]).write_text(block)
    else:
      exec(compile(block, f'block {number}', 'exec'), scope)
  return scope


@pytest.mark.parametrize('section', examples())
def test_the_examples_of_new_parts_run(section, tables, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  run_blocks(section, tmp_path)


def test_the_code_of_the_samplers_page_runs(tmp_path):
  scope = run_blocks(text_of('docs/samplers.md'), tmp_path)
  assert scope['x'].shape == scope['z'].shape == (16, 8, 8, 1)


def test_the_readme_s_program_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folder = CheckpointFolder('runs/digits/student_00004/checkpoints')
  folder.save(toy.make_state(9), toy.card_at(9), {})
  x = run_blocks(text_of('README.md'), tmp_path)['x']
  assert x.shape == (64, *toy.CARD.image_shape)
  assert abs(x).max() <= 1


def test_the_changelog_is_of_this_version():
  version = diffusion_distillation.__version__
  first = re.search(r'^## (.*)$', text_of('CHANGELOG.md'), re.MULTILINE)[1]
  assert re.fullmatch(rf'{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)', first)
