"""From noise to images: a loop and one short function per method."""

from diffusion_distillation.samplers.loop import METHODS, STOCHASTIC, sample

__all__ = ['METHODS', 'STOCHASTIC', 'sample']
