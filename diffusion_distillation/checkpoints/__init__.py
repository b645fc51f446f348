"""Weights on disk: cards, storage, and the formats of other programs."""

from diffusion_distillation.checkpoints.checkpoint import (
  Checkpoint,
  export,
  find,
  load,
  read_card,
  read_checksum,
  read_progress,
  writer_of,
)

__all__ = [
  'Checkpoint',
  'export',
  'find',
  'load',
  'read_card',
  'read_checksum',
  'read_progress',
  'writer_of',
]
