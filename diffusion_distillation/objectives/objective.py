"""Defines an objective: a loss of denoise functions, and its rounds."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from diffusion_distillation.core import process
from diffusion_distillation.core.noise import gaussian_noise


@dataclasses.dataclass(frozen=True)
class Round:
  """One training of a run: the teacher's, which is round 0, or a student's.

  Attributes:
    name: name of its folder in the run folder, such as 'student_00032'.
    num_steps: sampling steps that the trained network is made for.
    num_updates: length of the training.
    parent: name of the round whose weights it starts from, and which it usually
      distills; None for one that starts from random parameters.
    more_steps: other numbers of steps that the network can be sampled in.
    objective: spelling of its objective, which `make_objective` fills in.
    sampler: spelling of the sampler of the trained network, likewise.
  """

  name: str
  num_steps: int
  num_updates: int
  parent: str | None
  more_steps: tuple[int, ...] = ()
  objective: str = ''
  sampler: str = ''


class LossInputs(NamedTuple):
  """What a loss may use. Each denoise function is (z, logsnr) -> x_hat.

  The arrays are one replica's part of the batch, B examples.
  """

  student: Callable  # the network that is trained, dropout active
  teacher: Callable | None  # the parent's weights, without dropout
  target: Callable  # the student or its average, without gradient
  x: jax.Array  # (B, H, W, C) clean images in [-1, 1]
  time_keys: jax.Array  # (B,) random keys to draw times from
  noise_keys: jax.Array  # (B,) random keys to draw noise from
  num_steps: jax.Array  # int32, sampling steps of this round
  progress: jax.Array  # float32 in [0, 1), finished part of the training
  noise: jax.Array | None = None  # (B, H, W, C) given with the images, if any
  draw_noise: Callable = gaussian_noise  # (key, shape, logsnr) -> eps

  def diffuse(self, logsnr):
    """Returns z at logsnr (B,), each example with its own noise."""

    def draw(key, logsnr):
      return self.draw_noise(key, self.x.shape[1:], logsnr)

    eps = jax.vmap(draw)(self.noise_keys, logsnr)
    return process.diffuse(self.x, logsnr, eps)


@dataclasses.dataclass(frozen=True)
class Objective:
  """What a kind of training minimizes, and what is known about it.

  Attributes:
    loss: LossInputs -> losses of the examples, (B,) float32, or a pair of them
      and further metrics, name -> array, whose means are logged. It is pure;
      the gradient of the mean loss with respect to the student alone is taken.
    rounds: the Rounds that the config asks for, in order.
    needs_teacher: whether the loss evaluates the parent as the teacher. Rounds
      with a parent start from its weights in any case.
    extra_passes: network evaluations per example and update besides the
      student's own, which has a gradient and costs three: for `plan`. It is a
      function of the number of values of an image where it depends on that.
    target_decay: progress -> EMA decay of the weights of `LossInputs.target`,
      float32 in [0, 1); None takes the student's own weights.
    sampler: spelling of the sampler that the trained networks are made for;
      None leaves it to the config.
    differentiates_input: whether the loss has derivatives with respect to z,
      which the fastest kernels of networks lack.
    num_pairs: number of images that the teacher draws from seeds; they, with
      their noise, are what the students are trained on. 0 takes the data set.
  """

  loss: Callable[[LossInputs], jax.Array | tuple[jax.Array, dict]]
  rounds: tuple[Round, ...]
  needs_teacher: bool
  extra_passes: int | Callable[[int], int] = 0
  target_decay: Callable[[jax.Array], jax.Array] | None = None
  sampler: str | None = None
  differentiates_input: bool = False
  num_pairs: int = 0
