"""Counts what a config will cost, before anything runs."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from diffusion_distillation.training.config import teacher_num_steps, trainings
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state

# Cost of a student's forward and backward pass, in forward passes.
_GRADIENT_PASSES = 3


@dataclasses.dataclass(frozen=True)
class RoundCost:
  """The cost of one round.

  Attributes:
    name: name of the round.
    num_updates: number of updates.
    num_images: training images that it sees.
    flops_per_update: FLOPs of an update, from XLA's count for one forward pass.
    checkpoint_bytes: bytes of a checkpoint's arrays, before compression.
    flops_before: FLOPs of the images that the teacher draws for it.
  """

  name: str
  num_updates: int
  num_images: int
  flops_per_update: float
  checkpoint_bytes: int
  flops_before: float = 0.0

  @property
  def flops(self):
    """FLOPs of all updates, and of what comes before them."""
    return self.flops_before + self.num_updates * self.flops_per_update


@functools.lru_cache(8)
def forward_flops(denoiser):
  """Returns the FLOPs of one evaluation of one image, by XLA's count.

  They are counted in float32, since XLA does not count the fused attention that
  other types use.
  """
  # The result is cached, since lowering a large network takes seconds.
  network = denoiser.network.clone(dtype='float32')
  denoiser = dataclasses.replace(denoiser, network=network)
  z = jax.ShapeDtypeStruct((1, *denoiser.image_shape), jnp.float32)
  logsnr = jax.ShapeDtypeStruct((1,), jnp.float32)

  def forward(params, z, logsnr):
    return denoiser.bind(params, condition=None)(z, logsnr)

  lowered = jax.jit(forward).lower(denoiser.param_shapes(), z, logsnr)
  return lowered.cost_analysis()['flops']


def update_flops(training, denoiser):
  """Returns the FLOPs of one update of a Training, over all devices."""
  extra = training.objective.extra_passes
  if callable(extra):
    extra = extra(math.prod(denoiser.image_shape))
  passes = _GRADIENT_PASSES + extra
  batch_size = training.config.train.batch_size
  return passes * forward_flops(denoiser) * batch_size


def num_parameters(denoiser):
  """Returns the number of parameters of a Denoiser's network."""
  shapes = jax.tree.leaves(denoiser.param_shapes())
  return sum(math.prod(leaf.shape) for leaf in shapes)


def round_costs(config, denoiser):
  """Returns the RoundCost of each round; computes nothing.

  Args:
    config: a checked config.
    denoiser: Denoiser of the config.
  """
  costs = []
  for training in trainings(config):
    train = training.config.train
    size = _checkpoint_bytes(denoiser, training)
    drawn = training.objective.num_pairs * teacher_num_steps(config)
    costs += [
      RoundCost(
        name=each.name,
        num_updates=each.num_updates,
        num_images=each.num_updates * train.batch_size,
        flops_per_update=update_flops(training, denoiser),
        checkpoint_bytes=size,
        flops_before=drawn * forward_flops(denoiser),
      )
      for each in training.objective.rounds
    ]
  return costs


def _checkpoint_bytes(denoiser, training):
  train = training.config.train
  optimizer = make_optimizer(train)

  def state(params):
    return create_state(
      params,
      optimizer,
      num_updates=1,
      ema_decay=train.ema_decay,
      has_target=training.objective.target_decay is not None,
    )

  leaves = jax.tree.leaves(jax.eval_shape(state, denoiser.param_shapes()))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def plan(config, denoiser):
  """Returns the rounds of a run and their costs as a text table.

  Args:
    config: a checked config.
    denoiser: Denoiser of the config.
  """
  costs = round_costs(config, denoiser)
  params, forward = num_parameters(denoiser), forward_flops(denoiser)
  width = max(14, *(len(cost.name) + 1 for cost in costs))
  lines = [
    f'{config.dataset.name}: '
    f'{"x".join(map(str, denoiser.image_shape))} images, '
    f'{params:,} parameters ({params / 1e6:.1f}M), '
    f'{forward / 1e9:.4g} GFLOP per image and evaluation',
    '',
    f'{"round":<{width}}{"updates":>11}{"images":>15}{"FLOP/update":>14}'
    f'{"FLOP":>12}{"checkpoint":>14}',
  ]
  for cost in costs:
    lines.append(
      f'{cost.name:<{width}}{cost.num_updates:>11,}{cost.num_images:>15,}'
      f'{cost.flops_per_update:>14.3g}{cost.flops:>12.2g}'
      f'{cost.checkpoint_bytes / 1e6:>11,.1f} MB'
    )
  seeds = config.eval.seeds
  for label, runs in {'total': 1, f'of {seeds} seeds': seeds}.items():
    updates, images, flops = (
      runs * sum(getattr(cost, name) for cost in costs)
      for name in ('num_updates', 'num_images', 'flops')
    )
    if label == 'total' or seeds > 1:
      lines.append(
        f'{label:<{width}}{updates:>11,}{images:>15,}{"":>14}{flops:>12.2g}'
      )
  return '\n'.join(lines)
