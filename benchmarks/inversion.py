"""The search for the noise of held-out images, with two kinds of gradients.

python -m benchmarks --suite=inversion --checkpoint=runs/digits/teacher
  --batch_size=4

Phantom gradients of the parallel chain (DEQ-DDIM) are compared with gradients
through all DDIM steps, by their loss against time, as in figure 1 of DEQ-DDIM.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.samplers.inversion import invert

_STEPS = 64
_UPDATES = 100
_SHOWN = (0, 10, 30, 99)
_LEARNING_RATE = 0.02


def rows(subject):
  """Returns losses and times of both gradients after some updates.

  Args:
    subject: a Subject with trained weights; the images are held-out ones of its
      data set.
  """
  checkpoint = subject.trained()
  return [
    row
    for batch_size in subject.batch_sizes
    for by in ('backprop', 'deq')
    for row in _course(checkpoint, subject.dataset, batch_size, by)
  ]


def _course(checkpoint, dataset, batch_size, by):
  card = checkpoint.card
  examples = [dataset.heldout[i] for i in range(batch_size)]
  images, labels = (
    np.stack([example[key] for example in examples])
    for key in ('image', 'label')
  )
  x = jnp.asarray(images, jnp.float32) / 127.5 - 1
  solver = {'method': 'picard:tol=0.01', 'max_sweeps': 15}
  found = invert(
    checkpoint.denoise({'label': labels}),
    x,
    jax.random.normal(jax.random.key(0), x.shape),
    schedule=card.schedule(),
    num_steps=_STEPS,
    updates=_UPDATES,
    by=by,
    learning_rate=_LEARNING_RATE,
    clip=card.clip,
    **(solver if by == 'deq' else {}),
  )
  return [
    {
      'gradient': by,
      'batch': batch_size,
      'updates': updates,
      'seconds': float(found.seconds[updates]),
      'loss per image': float(found.losses[updates].mean()),
      'its deviation': float(found.losses[updates].std()),
    }
    for updates in _SHOWN
  ]
