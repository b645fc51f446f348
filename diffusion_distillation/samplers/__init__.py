"""From noise to images: one loop, time grids, and a file per sampler family."""

from diffusion_distillation.samplers.grids import GRIDS
from diffusion_distillation.samplers.loop import sample
from diffusion_distillation.samplers.sampler import Sampler, Step
from diffusion_distillation.samplers.table import (
  SAMPLERS,
  canonical,
  make_sampler,
  split,
)

__all__ = [
  'GRIDS',
  'SAMPLERS',
  'Sampler',
  'Step',
  'canonical',
  'make_sampler',
  'sample',
  'split',
]
