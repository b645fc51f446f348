"""Objectives: losses of denoise functions, one file for each kind."""

import dataclasses

from diffusion_distillation.core.noise import get_noise
from diffusion_distillation.objectives.denoising import denoising
from diffusion_distillation.objectives.objective import (
  LossInputs,
  Objective,
  Round,
)
from diffusion_distillation.objectives.progressive import progressive

# name -> factory: config -> Objective. The config is that of the training, so a
# teacher's objective gets the teacher's config.
OBJECTIVES = {'denoising': denoising, 'progressive': progressive}

__all__ = ['OBJECTIVES', 'LossInputs', 'Objective', 'Round', 'make_objective']


def make_objective(name, config):
  """Returns the Objective of that name, with the noise of the config.

  Args:
    name: one of OBJECTIVES.
    config: config of the training.

  Raises:
    ValueError: the name is unknown, or the config is not valid for it.
  """
  if name not in OBJECTIVES:
    known = ', '.join(OBJECTIVES)
    raise ValueError(f'unknown objective {name!r}; known: {known}')
  made = OBJECTIVES[name](config)
  draw_noise = get_noise(config.model.noise, config.model.theta_0)

  def loss(inputs):
    return made.loss(inputs._replace(draw_noise=draw_noise))

  return dataclasses.replace(made, loss=loss)
