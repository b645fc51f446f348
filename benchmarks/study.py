"""Runs a study: several trainings that differ in some keys.

python -m benchmarks.study --study=table1 --data=digits --seeds=0,1,2

Every training is a run of main.py in its own folder below --workdir. The same
command therefore resumes an interrupted study, and only trains what is missing
when seeds are added; studies share runs that are equal. All students of a seed
have the same teacher. The figures go to docs/results/studies/DATA_STUDY.json,
and `python -m benchmarks.readme` writes their tables into docs/studies.md. A
training that fails because its numbers are not finite is a result as well.
"""

import argparse
import dataclasses
import importlib.util
import json
import operator
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from diffusion_distillation.runtime import files

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'docs' / 'results' / 'studies'


@dataclasses.dataclass(frozen=True)
class Study:
  """Trainings to compare.

  Attributes:
    question: what they answer, as a sentence.
    is_teacher: whether teachers are compared, or else students of one teacher.
    variants: config -> the trainings, label -> keys that differ and their
      values.
    columns: heading -> sampler and number of steps of the row to show; None is
      the number of steps that the teacher has by default.
  """

  question: str
  is_teacher: bool
  variants: Callable[[ConfigDict], Mapping[str, Mapping[str, object]]]
  columns: Mapping[str, tuple[str, int | None]]


def _table1(config):
  del config
  heads = {'both': '(x, eps)', 'x': 'x', 'eps': 'eps', 'v': 'v'}
  weights = {'snr': 'SNR', 'snr_trunc': 'truncated SNR', 'v_mse': 'SNR + 1'}
  return {
    f'{head}, {weight}': {
      'model.mean_type': mean_type,
      'model.mean_loss_weight_type': weight_type,
    }
    for mean_type, head in heads.items()
    for weight_type, weight in weights.items()
  }


def _shares(key, label):
  """Returns config -> variants with all of a number, a half, and so on.

  Args:
    key: key of the number in the section `distillation`.
    label: text with a place for the number.
  """

  def variants(config):
    counts = [config.distillation[key] // share for share in (1, 2, 4, 8)]
    return {label.format(n): {f'distillation.{key}': n} for n in counts}

  return variants


def _ema(config):
  del config
  return {
    f'EMA decay {decay}' if decay else 'no EMA': {'train.ema_decay': decay}
    # The warm-up of the decay reaches 0.99 after 900 updates; a larger decay
    # would change nothing in rounds of that length.
    for decay in (0.0, 0.9, 0.99)
  }


_OF_STUDENTS = {
  'DDIM, 8 steps': ('ddim', 8),
  '4 steps': ('ddim', 4),
  '2 steps': ('ddim', 2),
  '1 step': ('ddim', 1),
}
STUDIES = {
  'table1': Study(
    'Which output of the network and which weighting of the loss make the best '
    "teacher (the paper's table 1)?",
    True,
    _table1,
    {'stochastic sampler': ('ancestral', None), 'DDIM': ('ddim', None)},
  ),
  'updates': Study(
    'What do shorter rounds cost?',
    False,
    _shares('steps_per_iter', '{:,} updates per round'),
    _OF_STUDENTS,
  ),
  'start': Study(
    'From how many steps should the first round start?',
    False,
    _shares('start_num_steps', 'from {:,} steps'),
    _OF_STUDENTS,
  ),
  'ema': Study(
    'Does an average of the weights help in the rounds?',
    False,
    _ema,
    _OF_STUDENTS,
  ),
}


def run(study, data, seeds, workdir):
  """Makes all trainings of a study, and returns its result as JSON.

  Args:
    study: a name in STUDIES.
    data: beginning of the names of the configs, such as 'digits'.
    seeds: ints.
    workdir: folder of the runs.

  Raises:
    SystemExit: a training was interrupted, or failed for another reason than
      numbers that are not finite.
  """
  plan = STUDIES[study]
  base, name = f'{data}_base', f'{data}_base'
  if not plan.is_teacher:
    name = f'{data}_distill'
  config = _config(name)
  model = config.model if plan.is_teacher else config.teacher.model
  default = model.eval_sampling_num_steps
  columns = {
    heading: (sampler, num_steps or default)
    for heading, (sampler, num_steps) in plan.columns.items()
  }
  most = max(num_steps for _, num_steps in columns.values())
  measured = {
    'eval.samplers': tuple({sampler for sampler, _ in columns.values()}),
    'eval.num_steps': (most,),
    'eval.max_num_steps': most,
  }
  rows = []
  for label, keys in plan.variants(config).items():
    for seed in seeds:
      shared = {'seed': seed}
      if not plan.is_teacher:
        teacher, _ = _train(base, {'seed': seed}, _HARDLY, workdir)
        shared['distillation.teacher_checkpoint_path'] = str(
          teacher / 'teacher'
        )
      _, report = _train(name, {**keys, **shared}, measured, workdir)
      figures = _figures(report, columns, plan.is_teacher)
      rows.append({'variant': label, 'seed': seed, **figures})
      if not report['failure']:
        finished = report
  kept = 'versions', 'hardware', 'date', 'metric', 'floor'
  return {
    'question': plan.question,
    'config': name,
    'columns': list(columns),
    'rows': rows,
    **{key: finished[key] for key in kept},
  }


# A teacher that is trained for its students is measured by one cheap row.
_HARDLY = {'eval.samplers': ('ddim',), 'eval.num_steps': (1,)}


def _train(name, keys, measured, workdir):
  """Trains a config, or resumes that; returns its folder and its report.

  Args:
    name: name of the config.
    keys: keys of the training that differ from it.
    measured: keys of the evaluation that differ from it.
    workdir: folder of the runs.
  """
  config = _config(name)
  parts = [
    f'{key.rpartition(".")[2]}={value}'
    for key, value in keys.items()
    if key != 'distillation.teacher_checkpoint_path'
    and (key == 'seed' or operator.attrgetter(key)(config) != value)
  ]
  folder = workdir / '_'.join([name, *parts])
  flags = [
    f'--config.{key}={value!r}'
    if isinstance(value, tuple)
    else f'--config.{key}={value}'
    for key, value in {**keys, **measured}.items()
  ]
  path = folder / 'report' / 'report.json'
  if _failure(path) is None:
    print(f'study: {folder.name}', file=sys.stderr, flush=True)
    command = ['main.py', f'--config=configs/{name}.py', f'--workdir={folder}']
    done = subprocess.run(
      [sys.executable, *command, *flags], cwd=ROOT, check=False
    )
    if done.returncode and _failure(path) is None:
      sys.exit(done.returncode)
  return folder, json.loads(path.read_text())


def _config(name):
  return importlib.import_module(f'configs.{name}').get_config()


def _failure(path):
  """Returns why a training failed, if a report says so, or None."""
  return json.loads(path.read_text())['failure'] if path.exists() else None


def _figures(report, columns, is_teacher):
  """Returns heading -> Frechet distance; None if the training failed.

  What there is no row for is left out, such as a student of 8 steps if the
  first round starts from 8.
  """
  if report['failure']:
    return dict.fromkeys(columns)
  network = 'teacher' if is_teacher else 'student'
  found = {
    (row['sampler'], row['num_steps']): row['frechet_distance']
    for row in report['rows']
    if row['network'] == network
  }
  return {
    heading: found[column]
    for heading, column in columns.items()
    if column in found
  }


def main():
  parser = argparse.ArgumentParser(prog='python -m benchmarks.study')
  parser.add_argument('--study', required=True, choices=STUDIES)
  parser.add_argument('--data', default='digits')
  parser.add_argument(
    '--seeds',
    type=lambda text: [int(part) for part in text.split(',')],
    default=[0, 1, 2],
  )
  parser.add_argument('--workdir', type=pathlib.Path, default='runs/studies')
  options = parser.parse_args()
  if importlib.util.find_spec(f'configs.{options.data}_base') is None:
    parser.error(f'there is no configs/{options.data}_base.py')
  result = run(
    options.study, options.data, options.seeds, options.workdir.resolve()
  )
  RESULTS.mkdir(parents=True, exist_ok=True)
  path = RESULTS / f'{options.data}_{options.study}.json'
  files.write_text(path, json.dumps(result, indent=1) + '\n')
  print(f'wrote {path}; run python -m benchmarks.readme')


if __name__ == '__main__':
  main()
