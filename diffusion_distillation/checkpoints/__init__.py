"""Weights on disk: cards, storage, and the formats of other programs."""

from diffusion_distillation.checkpoints.checkpoint import Checkpoint, load

__all__ = ['Checkpoint', 'load']
