"""Draws images from seeds: an image depends on its seed, not on the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.core.noise import noise_of
from diffusion_distillation.runtime import devices, processes
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import canonical, sample


def condition_of(seeds, num_classes, label=None):
  """Returns the condition of each seed's image.

  Args:
    seeds: (N,) ints.
    num_classes: number of classes; 1 is unconditional, and all labels are 0.
    label: class or classes to draw, in turn; None draws all classes in turn.
      Of K classes, seed s gets number s mod K, so that its image does not
      depend on the other seeds.

  Returns:
    {'label': (N,) int32}.
  """
  classes = np.arange(num_classes) if label is None else np.atleast_1d(label)
  labels = classes[np.asarray(seeds) % len(classes)]
  return {'label': labels.astype(np.int32)}


class Generator:
  """Draws images from the network that a card describes, on all devices.

  One compilation per sampler serves all step counts and all weights of that
  network. If there are several processes, process 0 decides what to draw and
  gets all images; the others `follow` it until it calls `dismiss`.
  """

  def __init__(self, card, batch_size):
    """Builds the network.

    Args:
      card: a Card; its network, schedule and clipping are used.
      batch_size: images drawn at once. It does not change them, and is rounded
        up to a multiple of the number of devices.
    """
    self._card = card
    self._denoiser, self._schedule = card.denoiser(), card.schedule()
    self.batch_size = _round_up(batch_size)
    self._compiled = functools.cache(self._compile)

  def images(
    self, weights, seeds, *, num_steps, sampler, label=None, progress=None
  ):
    """Returns uint8 images, (len(seeds), H, W, C), one for each seed.

    Args:
      weights: parameters of the network.
      seeds: (N,) ints, 0 to 2^32 - 1.
      num_steps: sampling steps.
      sampler: spelling of the sampler, such as 'ancestral:gamma=0.3'.
      label: see `condition_of`.
      progress: called with the number of images drawn so far.

    Raises:
      UserError: an image is not finite.
    """
    draw = self.drawer(weights, sampler, len(seeds), label)
    drawn = []
    for first in range(0, len(seeds), self.batch_size):
      drawn.append(draw(seeds[first : first + self.batch_size], num_steps))
      if progress:
        progress(first + len(drawn[-1]))
    return np.concatenate(drawn)

  def drawer(self, weights, sampler, num_images, label=None):
    """Returns draw(seeds (B,), num_steps) -> uint8 images (B, H, W, C).

    Args:
      weights: parameters of the network.
      sampler: spelling of the sampler.
      num_images: number of images in all. B is at most that, and at most
        `batch_size`; smaller batches are padded, so that one compiled program
        serves all of them.
      label: see `condition_of`.
    """
    sampler = canonical(sampler)
    size = min(self.batch_size, _round_up(num_images))
    processes.broadcast({'weights': weights, 'sampler': sampler})
    params = devices.replicate(weights)

    def draw(seeds, num_steps):
      padded = np.resize(seeds, size).astype(np.uint32)
      condition = condition_of(padded, self._card.num_classes, label)
      task = {'seeds': padded, 'condition': condition}
      processes.broadcast({**task, 'num_steps': int(num_steps)})
      images, finite = self._draw_all(
        sampler, params, **task, num_steps=num_steps
      )
      if not finite.all():
        raise UserError(
          f'{sampler} in {num_steps} steps draws images that are not finite: '
          'the network, or an option of the sampler, gives numbers that are '
          'far too large'
        )
      return images[: len(seeds)]

    return draw

  def follow(self):
    """Draws what process 0 draws, until it calls `dismiss`."""
    while (task := processes.broadcast(None)) is not None:
      if 'weights' in task:
        sampler, params = task['sampler'], devices.replicate(task['weights'])
      else:
        self._draw_all(sampler, params, **task)

  def _draw_all(self, sampler, params, *, seeds, condition, num_steps):
    """Returns the images of seeds (N,), and (N,) whether they are finite.

    Each process draws a part of them.
    """

    def split(array):
      mine = np.split(array, jax.process_count())[jax.process_index()]
      return mine.reshape(jax.local_device_count(), -1)

    mine = split(seeds)
    drawn = self._compiled(sampler)(
      params, mine, jax.tree.map(split, condition), jnp.int32(num_steps)
    )
    return [
      devices.gather(np.asarray(part).reshape(mine.size, *part.shape[2:]))
      for part in drawn
    ]

  def _compile(self, sampler):
    def draw(params, seeds, condition, num_steps):
      """Returns the images of one replica, uint8, and which are finite."""
      z_1, step_keys = noise_of(seeds, self._denoiser.image_shape)
      x = sample(
        self._denoiser.bind(params, condition),
        z_1,
        schedule=self._schedule,
        num_steps=num_steps,
        sampler=sampler,
        clip=self._card.clip,
        key=step_keys,
      )
      return to_uint8(x), jnp.isfinite(x).all(axis=(1, 2, 3))

    return devices.compile_sampler(draw)


def dismiss():
  """Ends the `follow` of the processes other than 0."""
  processes.broadcast(None)


def _round_up(batch_size):
  """Returns the size of a batch that splits evenly over the devices."""
  count = jax.device_count()
  return -(-batch_size // count) * count


def to_uint8(x):
  """Returns images in [-1, 1] as uint8, rounded."""
  return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)


def to_float(images):
  """Returns uint8 images as float32 in [-1, 1]; see `to_uint8`."""
  return images.astype(np.float32) / 127.5 - 1
