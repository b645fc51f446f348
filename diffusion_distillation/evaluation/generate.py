"""Images from seeds: what is drawn depends on the seed alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.core import schedules
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.samplers import METHODS, sample
from diffusion_distillation.samplers.ancestral import gamma_of
from diffusion_distillation.training import replicas

# Of the keys of images, which are to be no training's keys of the same seed.
_DOMAIN = int.from_bytes(b'imag')


def labels_of(seeds, num_classes):
  """Returns the class of each seed: the classes in turn, all alike often."""
  return seeds % num_classes


class Generator:
  """Draws images from the network that a card describes, on all devices.

  One compilation serves every step count and all weights of that network.
  """

  def __init__(self, card, batch_size):
    """Takes a checkpoint's card.

    Args:
      card: says network, schedule, clipping, logvar_type and classes.
      batch_size: images drawn at once; it does not change them.
    """
    model = {'mean_type': card['mean_type'], 'args': card['args']}
    self._denoiser = build_denoiser(
      model, card['image_shape'], card['num_classes']
    )
    self._card, self._batch_size = card, batch_size
    self._samplers = {
      method: replicas.compile_sampler(functools.partial(self._draw, method))
      for method in METHODS
    }

  def images(self, weights, seeds, num_steps, method, progress=None):
    """Returns uint8 images, (len(seeds), H, W, C), one of each seed.

    Args:
      weights: of the network.
      seeds: (N,) ints, 0 to 2^32 - 1.
      num_steps: sampling steps.
      method: of samplers.METHODS.
      progress: called with the number of images drawn so far.
    """
    devices = jax.local_device_count()
    size = -(-min(self._batch_size, len(seeds)) // devices) * devices
    params = replicas.replicate(weights)
    drawn = []
    for first in range(0, len(seeds), size):
      some = np.resize(seeds[first : first + size], size)  # the last is padded
      some = some.astype(np.uint32).reshape(devices, -1)
      x = self._samplers[method](params, some, jnp.int32(num_steps))
      drawn.append(np.asarray(x).reshape(size, *self._denoiser.image_shape))
      if progress:
        progress(min(first + size, len(seeds)))
    return np.concatenate(drawn)[: len(seeds)]

  def warm_up(self, weights, method, num_images):
    """Compiles the sampler for batches of that many images, or full ones."""
    self.images(
      weights, np.arange(min(num_images, self._batch_size)), 1, method
    )

  def _draw(self, method, params, seeds, num_steps):
    """Returns this replica's images of seeds (B,), uint8."""
    key = jax.random.key(_DOMAIN)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, seeds)
    noise_keys, step_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    shape = self._denoiser.image_shape
    z_1 = jax.vmap(lambda key: jax.random.normal(key, shape))(noise_keys)
    labels = labels_of(seeds, self._card['num_classes']).astype(jnp.int32)
    extra = {}
    if METHODS[method].draws_noise:
      extra['key'] = step_keys
    if method == 'ancestral':
      extra['gamma'] = gamma_of(self._card['logvar_type'])
    x = sample(
      self._denoiser.bind(params, labels),
      z_1,
      schedule=schedules.get_logsnr_schedule(**self._card['logsnr_schedule']),
      num_steps=num_steps,
      method=method,
      clip=self._card['clip'],
      **extra,
    )
    return to_uint8(x)


def to_uint8(x):
  """Returns images in [-1, 1] as uint8, rounded."""
  return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
