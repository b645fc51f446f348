"""From noise to images: a loop and one short function per method."""

from diffusion_distillation.samplers.loop import sample
from diffusion_distillation.samplers.methods import METHODS

__all__ = ['METHODS', 'sample']
