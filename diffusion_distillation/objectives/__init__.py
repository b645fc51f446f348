"""Objectives: losses of denoise functions, one file for each kind."""

import dataclasses

from diffusion_distillation.core.noise import get_noise
from diffusion_distillation.objectives.consistency import (
  consistency_distillation,
)
from diffusion_distillation.objectives.consistency_training import (
  consistency_training,
  easy_consistency_tuning,
  improved_consistency_training,
)
from diffusion_distillation.objectives.denoising import denoising
from diffusion_distillation.objectives.objective import (
  LossInputs,
  Objective,
  Round,
)
from diffusion_distillation.objectives.one_shot import one_shot
from diffusion_distillation.objectives.progressive import progressive
from diffusion_distillation.objectives.score_matching import (
  implicit_score_matching,
  sliced_score_matching,
)
from diffusion_distillation.objectives.tract import tract
from diffusion_distillation.runtime import spelling as spellings

# name -> factory: **options -> (config -> Objective). The config is that of the
# training, so a teacher's objective gets the teacher's config.
OBJECTIVES = {
  'denoising': denoising,
  'sliced_score_matching': sliced_score_matching,
  'implicit_score_matching': implicit_score_matching,
  'progressive': progressive,
  'tract': tract,
  'consistency_distillation': consistency_distillation,
  'consistency_training': consistency_training,
  'improved_consistency_training': improved_consistency_training,
  'easy_consistency_tuning': easy_consistency_tuning,
  'one_shot': one_shot,
}

# Objectives whose x_hat is the mean of the data given z.
OF_TEACHERS = 'denoising', 'sliced_score_matching', 'implicit_score_matching'

__all__ = [
  'OBJECTIVES',
  'OF_TEACHERS',
  'LossInputs',
  'Objective',
  'Round',
  'canonical',
  'make_objective',
]


def make_objective(spelling, config):
  """Returns the Objective of a spelling, with the noise of the config.

  Args:
    spelling: a name in OBJECTIVES, with its options after a colon, such as
      'consistency_distillation:levels=64'.
    config: config of the training.

  Raises:
    ValueError: the name or an option is unknown, or the config is not valid
      for it.
  """
  made = spellings.make(OBJECTIVES, spelling, 'objective')(config)
  draw_noise = get_noise(config.model.noise, config.model.theta_0)

  def loss(inputs):
    return made.loss(inputs._replace(draw_noise=draw_noise))

  name = canonical(spelling)
  sampler = made.sampler or config.sampler
  rounds = tuple(
    dataclasses.replace(r, objective=name, sampler=sampler) for r in made.rounds
  )
  return dataclasses.replace(made, loss=loss, rounds=rounds)


def canonical(spelling):
  """Returns the canonical spelling of an objective.

  Raises:
    ValueError: the name or an option is unknown.
  """
  return spellings.canonical(OBJECTIVES, spelling, 'objective')
