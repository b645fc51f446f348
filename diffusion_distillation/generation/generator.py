"""Images from seeds: what is drawn depends on the seed alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.core import schedules
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.runtime import devices, processes
from diffusion_distillation.samplers import METHODS, sample
from diffusion_distillation.samplers.ancestral import gamma_of

# Of the keys of images, which are to be no training's keys of the same seed.
_DOMAIN = int.from_bytes(b'imag')


def labels_of(seeds, num_classes):
  """Returns the class of each seed: the classes in turn, all alike often."""
  return seeds % num_classes


class Generator:
  """Draws images from the network that a card describes, on all devices.

  One compilation serves every step count and all weights of that network. Of
  several processes, 0 says what to draw, and gets all images; the others
  `follow` it until it calls `dismiss`.
  """

  def __init__(self, card, batch_size):
    """Takes a checkpoint's card.

    Args:
      card: says network, schedule, clipping, logvar_type and classes.
      batch_size: images drawn at once; it does not change them, and is rounded
        up to a multiple of the devices.
    """
    model = {'mean_type': card['mean_type'], 'args': card['args']}
    self._denoiser = build_denoiser(
      model, card['image_shape'], card['num_classes']
    )
    self._card = card
    self.batch_size = _whole(batch_size)
    self._samplers = {
      method: devices.compile_sampler(functools.partial(self._draw, method))
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
    draw, drawn = self.drawer(weights, method, len(seeds)), []
    for first in range(0, len(seeds), self.batch_size):
      drawn.append(draw(seeds[first : first + self.batch_size], num_steps))
      if progress:
        progress(first + len(drawn[-1]))
    return np.concatenate(drawn)

  def drawer(self, weights, method, num_images):
    """Returns a function (seeds (B,), num_steps) -> uint8 images (B, H, W, C).

    Args:
      weights: of the network.
      method: of samplers.METHODS.
      num_images: that will be drawn in all. B is at most that, and at most
        `batch_size`; smaller batches are padded, so that all are one program.
    """
    size = min(self.batch_size, _whole(num_images))
    processes.broadcast({'weights': weights, 'method': method})
    params = devices.replicate(weights)

    def draw(seeds, num_steps):
      some = np.resize(seeds, size).astype(np.uint32)
      processes.broadcast({'seeds': some, 'num_steps': int(num_steps)})
      return self._draw_all(method, params, some, num_steps)[: len(seeds)]

    return draw

  def follow(self):
    """Draws what process 0 draws, until it calls `dismiss`."""
    while (task := processes.broadcast(None)) is not None:
      if 'weights' in task:
        method, params = task['method'], devices.replicate(task['weights'])
      else:
        self._draw_all(method, params, task['seeds'], task['num_steps'])

  def _draw_all(self, method, params, seeds, num_steps):
    """Returns the images of seeds (N,); each process draws a part of them."""
    mine = np.split(seeds, jax.process_count())[jax.process_index()]
    mine = mine.reshape(jax.local_device_count(), -1)
    x = self._samplers[method](params, mine, jnp.int32(num_steps))
    shape = self._denoiser.image_shape
    return devices.gather(np.asarray(x).reshape(mine.size, *shape))

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


def dismiss():
  """Tells the processes that follow process 0 that it draws no more."""
  processes.broadcast(None)


def _whole(batch_size):
  """Returns the size of a batch that splits evenly over the devices."""
  devices = jax.device_count()
  return -(-batch_size // devices) * devices


def to_uint8(x):
  """Returns images in [-1, 1] as uint8, rounded."""
  return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
