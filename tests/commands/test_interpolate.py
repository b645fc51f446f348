"""Rows of images between two ends, from a network that shows its input."""

import types

import jax.numpy as jnp
import numpy as np

from diffusion_distillation.commands import interpolate
from diffusion_distillation.core import schedules


def test_a_row_is_an_arc_with_the_class_of_the_nearer_end():
  def bind(weights, condition):
    # The noise, with the class, as a value in [0, 1], in the third pixel.
    label = condition['label'][:, None, None] / 10
    return lambda z, logsnr: weights * z.at[:, :, 2].set(label)

  card = types.SimpleNamespace(
    denoiser=lambda: types.SimpleNamespace(bind=bind),
    schedule=lambda: schedules.get_logsnr_schedule('cosine'),
    clip=True,
  )
  ends = np.float32([[9, 9, 0], [1, 0, 0], [0, 1, 0]]).reshape(3, 1, 3, 1)
  row = interpolate._row_drawer(card, num=4, sampler='ddim', num_steps=1)
  got = row(jnp.float32(1), ends, {'label': np.array([9, 2, 5])}, 1, 2)
  angle = np.radians([0, 30, 60, 90])
  want = np.stack([np.cos(angle), np.sin(angle), [0.2, 0.2, 0.5, 0.5]], axis=1)
  assert got.shape == (4, 1, 3, 1)
  np.testing.assert_allclose(got[:, 0, :, 0] / 127.5 - 1, want, atol=5e-3)
