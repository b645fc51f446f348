"""--mode=plan: what a config will do, and what it costs."""

from diffusion_distillation.training import plan as plans
from diffusion_distillation.training.config import check


def plan(config):
  """Prints the rounds of a config with their costs; runs nothing.

  Raises:
    UserError: the config is not valid.
  """
  _, denoiser = check(config)
  print(plans.plan(config, denoiser))
