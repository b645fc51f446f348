"""Generated texts from configs and tables: costs, samplers, time grids."""

import functools
import importlib
import inspect

from benchmarks import markdown
from diffusion_distillation.report import paper
from diffusion_distillation.samplers import GRIDS, SAMPLERS, make_sampler
from diffusion_distillation.training import plan
from diffusion_distillation.training.config import check

# The configs of the paper's models, and which of them docs/scaling.md has.
PAPER = (
  'cifar10_distill',
  'imagenet64_distill',
  'lsun_bedroom128_distill',
  'lsun_church128_distill',
)
SCALING = ('digits_distill', 'folder_distill', *PAPER[:3])


def paper_models():
  """Returns the table of the paper's models: what they cost, and its FID."""
  lines = []
  for name in PAPER:
    config, denoiser, costs = costs_of(name)
    fid = paper.curves({'label': 'FID', 'dataset': config.dataset.name})
    fid = fid.get(('student', 'ddim'), {})
    updates = sum(each.num_updates for each in costs[1:])
    lines.append(
      (
        f'`{name}`',
        f'{plan.num_parameters(denoiser) / 1e6:.1f}M',
        f'{len(costs) - 1}, {updates // 1000}k',
        f'{flop(costs[:1])}, {flop(costs[1:])}',
        ', '.join(f'{fid[n]:#.3g}' for n in (8, 4, 2, 1))
        if fid
        else 'no figures',
      )
    )
  heading = [
    'config',
    'parameters',
    'rounds, updates',
    'FLOP: teacher, students',
    "the paper's FID at 8, 4, 2, 1 steps",
  ]
  return markdown.table(heading, *zip(*lines, strict=True))


def cost():
  """Returns the table of FLOPs of docs/scaling.md."""
  lines = []
  for name in SCALING:
    config, denoiser, costs = costs_of(name)
    lines.append(
      (
        f'`{name.removesuffix("_distill")}`',
        f'{plan.forward_flops(denoiser) / 1e9:.3g}',
        f'{config.train.batch_size:,}',
        flop(costs[:1], 3),
        str(len(costs) - 1),
        flop(costs[1:], 3),
      )
    )
  heading = [
    'config',
    'F, GFLOP',
    'B',
    'teacher, FLOP',
    'rounds',
    'students, FLOP',
  ]
  return markdown.table(heading, *zip(*lines, strict=True))


@functools.cache
def costs_of(name):
  """Returns the config of a name, its Denoiser and its RoundCosts."""
  config = importlib.import_module(f'configs.{name}').get_config()
  _, denoiser = check(config)
  return config, denoiser, plan.round_costs(config, denoiser)


def flop(costs, digits=2):
  """Returns the sum of some RoundCosts as text, such as '1.6e19'."""
  return f'{sum(each.flops for each in costs):.{digits - 1}e}'.replace(
    'e+', 'e'
  )


def samplers():
  """Returns the table of samplers."""
  lines = []
  for name, factory in SAMPLERS.items():
    sampler = make_sampler(name)
    lines.append(
      (
        f'`{name}`',
        _options(factory),
        str(sampler.order),
        str(sampler.nfe_per_step),
        'yes' if sampler.draws_noise else 'no',
        _summary(factory),
      )
    )
  heading = [
    'name',
    'options',
    'order',
    'NFE per step',
    'draws noise',
    'what it is',
  ]
  return markdown.table(heading, *zip(*lines, strict=True), align='llrrll')


def grids():
  """Returns the table of time grids."""
  lines = [
    (f'`{name}`', _options(factory), _summary(factory))
    for name, factory in GRIDS.items()
  ]
  heading = ['name', 'options', 'what it is']
  return markdown.table(heading, *zip(*lines, strict=True), align='lll')


def _options(factory):
  """Returns the options of a factory and their defaults."""
  options = inspect.signature(factory).parameters.values()
  return ', '.join(f'`{o.name}={o.default}`' for o in options)


def _summary(function):
  """Returns the first sentence of a docstring without 'Returns' and period."""
  line = inspect.getdoc(function).split('\n\n')[0].replace('\n', ' ')
  return line.removeprefix('Returns ').removesuffix('.')
