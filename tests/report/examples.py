"""Reports as runs make them, for tests and to view in a browser."""

import numpy as np
from sklearn.datasets import load_digits

from diffusion_distillation.report.report import compare, make_report
from diffusion_distillation.samplers import make_sampler

_VERSIONS = {'python': '3.11.2', 'jax': '0.10.2', 'flax': '0.12.1'}
_HARDWARE = {'cpu': 'AMD EPYC', 'cores': 2, 'devices': ['cpu']}


def _curve(network, sampler, distances, **options):
  """Returns rows by steps; `nfe` are network evaluations per step."""
  nfe, error = options.get('nfe', 1), options.get('error', 0.04)
  speed = options.get('speed', 6400)
  rows = []
  for num_steps, distance in distances.items():
    span = options.get('span', 1)
    name = f'student_{num_steps // span:05}'
    rows.append(
      {
        'network': network,
        'round': name if network == 'student' else 'teacher',
        'sampler': sampler,
        'num_steps': num_steps,
        'nfe': nfe * num_steps - nfe + 1,
        'frechet_distance': distance,
        'frechet_distance_error': error * distance,
        'precision': 0.72 - 0.05 / num_steps,
        'recall': 0.91 - 0.03 / num_steps,
        'images_per_second': speed / num_steps,
        'is_reference': (sampler, num_steps) == options.get('reference'),
      }
    )
  return rows


def _powers(last, distances):
  """Returns falling steps, halved from `last`, with their distances."""
  return dict(zip((last >> i for i in range(20)), distances, strict=False))


def _training(name, objective, num_steps, updates, loss):
  return {
    'name': name,
    'objective': objective,
    'num_steps': num_steps,
    'updates': updates,
    'seconds': updates * 0.0301,
    'final_loss': loss,
    'compilations': 1,
  }


def digits():
  """Returns the report of the digits run."""
  teacher = (1.19, 1.28, 1.49, 2.26, 4.96, 17.2, 101.0)
  ancestral = (1.10, 1.53, 2.04, 3.56, 6.97, 13.2, 101.0)
  student = (1.20, 1.21, 1.23, 1.30, 1.37, 1.46)
  stochastic = (0.96, 1.06, 1.01, 1.16, 1.28, 1.32)
  rows = [
    *_curve('student', 'ddim', _powers(32, student)),
    *_curve('student', 'stochastic', _powers(64, stochastic), span=2),
    *_curve('teacher', 'ddim', _powers(64, teacher), reference=('ddim', 64)),
    *_curve('teacher', 'ancestral', _powers(64, ancestral)),
  ]
  for row in rows:
    row['frechet_distance_heldout'] = row['frechet_distance'] + 1.1
    row['classifier_score'] = 8.7 - row['frechet_distance'] / 20
    row['kid'] = row['frechet_distance'] / 4000 - 0.0004
  trainings = [
    _training('teacher', 'denoising', 64, 2500, 0.0613),
    *(
      _training(f'student_{32 >> i:05}', 'progressive', 32 >> i, 800, loss)
      for i, loss in enumerate((3e-4, 5e-4, 8e-4, 2e-3, 5e-3, 0.0121))
    ),
  ]
  run = {
    'config': {
      'seed': 0,
      'dataset': {'name': 'digits', 'args': {'class_conditional': False}},
      'model': {'args': {'ch': 16, 'ch_mult': [1, 2]}, 'mean_type': 'v'},
    },
    'versions': _VERSIONS,
    'command': 'python main.py --config=configs/digits_distill.py '
    '--workdir=runs/digits',
    'commit': '6100ecc1f0a94b7cb61c3b2f0f0f4f0d3c2c9a11',
    'started': '2026-01-17T10:21:07+00:00',
  }
  metric = {
    'name': 'frechet_distance',
    'label': 'Frechet distance',
    'dataset': 'digits',
    'features': 'digits_classifier',
    'features_checksum': 'sha256:' + '4be1c70a' * 8,
    'resize': None,
    'num_samples': 2000,
    'images': 'uint8, rounded; seeds 0 to num_samples - 1',
    'reference': 'digits train, 1500 images',
    'reference_checksum': '77d0c3aa' * 8,
    'heldout': 'digits held out, 297 images',
  }
  return make_report(
    run,
    rows,
    trainings,
    metric=metric,
    hardware=_HARDWARE,
    parameters=139_842,
    floor=1.26,
    train_classifier_score=9.02,
  )


def imagenet():
  """Returns a report with many samplers, long names and the paper's figures."""
  student = (2.61, 2.66, 2.74, 3.02, 3.95, 7.61, 16.4)
  ddim = (2.66, 2.79, 3.06, 3.66, 4.55, 6.8, 13.7, 38, 97, 214)
  ancestral = (2.15, 2.2, 2.37, 3.15, 4.6, 9.8, 25, 66, 140, 230)
  samplers = {
    'heun': (2, (2.66, 2.71, 2.9, 3.4, 8.3, 60)),
    'rk4': (4, (2.65, 2.66, 2.7, 2.9, 12, 120)),
    'dpmpp_2m@logsnr': (1, (2.66, 2.68, 2.8, 3.1, 4.1, 9)),
    'unipc:order=3,variant=bh2': (1, (2.66, 2.67, 2.7, 2.9, 3.6, 8)),
    'ddim:eta=0.5': (1, (2.5, 2.62, 2.9, 3.4, 5.2, 12)),
  }
  rows = [
    *_curve('student', 'ddim', _powers(64, student), error=0.006),
    *_curve(
      'teacher',
      'ddim',
      _powers(512, ddim),
      reference=('ddim', 512),
      error=0.006,
    ),
    *_curve('teacher', 'ancestral:gamma=0.3', _powers(512, ancestral)),
  ]
  for sampler, (nfe, distances) in samplers.items():
    rows += _curve(
      'teacher', sampler, _powers(64, distances), nfe=nfe, error=0.006, speed=9
    )
  for row in rows:
    row['sfid'] = row['frechet_distance'] + 1.7
    row['inception_score'] = 62 / row['frechet_distance'] ** 0.2
    row['inception_score_std'] = 0.8
  made = digits()
  run = {
    'config': {
      'dataset': {
        'name': 'imagenet64',
        'args': {'path': '/data/' + 'a_very_long_folder_name/' * 8},
      }
    },
    'versions': _VERSIONS,
    'command': 'python main.py --config=configs/imagenet64_distill.py '
    '--workdir=/a/long/path/to/the/runs/imagenet64_from_512_to_1 '
    '--config.distillation.teacher_checkpoint_path=/checkpoints/imagenet64 '
    '--config.eval.inception_path=/weights/pt_inception-2015-12-05.pth',
    'commit': '6100ecc1f0a94b7cb61c3b2f0f0f4f0d3c2c9a11',
    'started': '2026-01-17T10:21:07+00:00',
  }
  metric = made['metric'] | {
    'label': 'FID',
    'dataset': 'imagenet64',
    'features': 'inception',
    'num_samples': 50_000,
    'reference': 'imagenet64 train, 1281167 images; precision, recall and KID '
    'of 50000',
    'heldout': 'imagenet64 held out, 50000 images',
  }
  trainings = [
    _training(f'student_{64 >> i:05}', 'progressive', 64 >> i, 50_000, loss)
    for i, loss in enumerate((3e-4, 5e-4, 8e-4, 2e-3, 5e-3, 0.0121, 0.0331))
  ]
  return make_report(
    run,
    rows,
    trainings,
    metric=metric,
    hardware={
      'cpu': 'Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz',
      'cores': 208,
      'devices': ['NVIDIA H100 80GB HBM3'] * 8,
    },
    parameters=295_905_222,
    floor=2.1,
  )


def samplers():
  """Returns a report of many samplers of one teacher, and its students."""
  rng, report = np.random.default_rng(0), digits()
  spellings = [
    *('ddim', 'euler_t', 'euler', 'heun', 'rk4', 'ancestral', 'ddim:eta=0.5'),
    *(f'dpm{kind}' for kind in ('pp_2s', 'pp_3s', 'pp_2m', 'pp_3m', '_2m')),
    *('dpmpp_3m:corrected=True', 'unipc', 'unipc:order=3', 'unipc:form=eps'),
  ]
  karras = '@karras:sigma_min=0.1,sigma_max=20'
  spellings += [
    f'{name}{karras}'
    for name in spellings
    if name.startswith(('ddim', 'dpmpp', 'unipc'))
  ]
  rows = []
  for spelling in spellings:
    quality, nfe = rng.uniform(0.3, 3), {'h': 2, 'r': 4}.get(spelling[0], 1)
    steps = (2, 4, 5, 8, 10, 16, 20, *((64,) if spelling == 'ddim' else ()))
    rows += _curve(
      'teacher',
      spelling,
      {n: 0.45 + quality * (4 / n) ** rng.uniform(1.5, 3) for n in steps},
      reference=('ddim', 64),
      nfe=nfe,
      speed=9000 / nfe,
    )
  students = [row for row in report['rows'] if row['network'] == 'student']
  for row in [*students, *rows]:
    if not make_sampler(row['sampler']).draws_noise:
      row['teacher_rmse'] = 0.3 / row['nfe'] * rng.uniform(0.5, 1)
    row |= {'density': 0.97, 'coverage': 0.93, 'memorization': 0.051}
  metric = report['metric'] | {'solution': 'DDIM in 1,024 steps'}
  rows = compare([*students, *rows], metric)
  return report | {'metric': metric, 'rows': rows}


def failed():
  """Returns the report of a digits run that failed in its fourth round."""
  made = digits()
  rounds = made['rounds'][:4]
  names = {training['name'] for training in rounds}
  return made | {
    'failure': 'student_00004: loss nan and gradient norm inf at update 312; '
    'lower train.learning_rate',
    'rows': [row for row in made['rows'] if row['round'] in names],
    'rounds': rounds,
  }


def unmeasured():
  """Returns the report of a digits run before its evaluation."""
  made = digits()
  keys = ('network', 'round', 'sampler', 'num_steps', 'nfe', 'is_reference')
  return made | {
    'metric': None,
    'floor': None,
    'train_classifier_score': None,
    'rows': [{key: row[key] for key in keys} for row in made['rows']],
  }


def identity(row):
  """Returns the key of a row's images."""
  return row['round'], row['sampler'], row['num_steps']


def digits_images(report):
  """Returns images of rows, noisier where they are worse, and real ones."""
  images = load_digits().images.round()[..., None] / 16
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(6, 8, 8, 1))
  row_images = {}
  for row in report['rows']:
    blend = 1 - 1 / (1 + 0.05 * row.get('frechet_distance', 1))
    noisy = images[:6] * (1 - blend) + (0.3 + 0.5 * noise) * blend
    row_images[identity(row)] = _to_uint8(noisy)
  return row_images, _to_uint8(images[:100])


def random_images(report, size=64):
  """Returns images that no file format makes small: the worst case."""
  rng = np.random.default_rng(0)
  shape = (6, size, size, 3)
  return {
    identity(row): rng.integers(0, 256, shape, np.uint8)
    for row in report['rows']
  }, rng.integers(0, 256, (100, *shape[1:]), np.uint8)


def entries(report):
  """Returns lines of metrics.jsonl for the rounds of a report."""
  rng, lines = np.random.default_rng(0), []
  for training in report['rounds']:
    for step in range(50, training['updates'] + 1, 50):
      noise = 1 + 0.1 * rng.normal()
      loss = training['final_loss'] * (1 + 400 / step) * noise
      line = {'stage': training['name'], 'step': step, 'loss': loss}
      lines.append(line | {'grad_norm': 1.0})
  return lines


def _to_uint8(images):
  return (images * 255).clip(0, 255).astype(np.uint8)
