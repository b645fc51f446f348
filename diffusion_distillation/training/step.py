"""One training step for every objective: gradient, update, EMA."""

import chex
import jax
import jax.numpy as jnp
import optax

from diffusion_distillation.core.noise import noise_of
from diffusion_distillation.objectives import LossInputs
from diffusion_distillation.training import optimizer as optimizers


def make_step(name, objective, denoiser, optimizer, train):
  """Returns step(state, teacher_params, num_steps, batch, key).

  It returns (state, metrics) of one replica and is to be compiled by
  `devices.compile_step`, over the axis 'batch'. The teacher's weights and the
  number of steps are arguments, so that one compiled program serves all rounds
  of an objective.

  Args:
    name: name of the function, under which its compilations are counted:
      'train_step' for a teacher, 'distill_step' for students.
    objective: an Objective.
    denoiser: the Denoiser of student and teacher.
    optimizer: result of `make_optimizer(train)`.
    train: config.train.
  """

  if objective.differentiates_input:
    denoiser = denoiser.plain()

  def step(state, teacher_params, num_steps, batch, key):
    """Makes one update.

    Args:
      state: a TrainState.
      teacher_params: the weights that are distilled; None without a teacher.
      num_steps: int32, sampling steps of the round.
      batch: {'image': (B, H, W, C) uint8, ...}; all other entries are the
        condition.
      key: random key of this training.
    """
    progress = state.step / state.num_updates

    def loss_fn(params, examples):
      batch, (time_keys, noise_keys, dropout_keys) = examples
      condition = {k: v for k, v in batch.items() if k != 'image'}
      shape = batch['image'].shape[1:]
      condition, noise = split_noise(condition, shape)
      # No gradient reaches the teacher or the target, since they do not depend
      # on `params`.
      teacher = None
      if teacher_params is not None:
        teacher = denoiser.bind(teacher_params, condition)
      inputs = LossInputs(
        student=denoiser.bind(params, condition, dropout_keys),
        teacher=teacher,
        target=denoiser.bind(state.target, condition, dropout_keys),
        x=normalize_images(batch['image']),
        time_keys=time_keys,
        noise_keys=noise_keys,
        num_steps=num_steps,
        progress=progress,
        noise=noise,
      )
      found = objective.loss(inputs)
      losses, more = found if isinstance(found, tuple) else (found, {})
      return jnp.mean(losses), jax.tree.map(jnp.mean, more)

    keys = example_keys(key, state.step, len(batch['image']))
    state, metrics = gradient_update(
      state, loss_fn, (batch, keys), optimizer=optimizer, train=train
    )
    if state.target_params is None:
      return state, metrics
    decay = objective.target_decay(progress)
    target = optimizers.update_target(
      state.target_params, state.params, state.step - 1, decay
    )
    return state.replace(target_params=target), metrics

  step.__name__ = name
  return step


def split_noise(condition, image_shape):
  """Returns a condition without seeds, and the noise of these seeds.

  Args:
    condition: entries of a batch, {'label': (B,), ...}. Images that were drawn
      from seeds have (B,) 'seed' as well.
    image_shape: (H, W, C).

  Returns:
    The other entries, and (B, H, W, C) float32 noise; None without seeds.
  """
  if 'seed' not in condition:
    return condition, None
  rest = {k: v for k, v in condition.items() if k != 'seed'}
  return rest, noise_of(condition['seed'], image_shape)[0]


def normalize_images(images):
  """Returns uint8 images (B, H, W, C) as float32 in [-1, 1]."""
  chex.assert_rank(images, 4)
  chex.assert_type(images, jnp.uint8)
  return images.astype(jnp.float32) / 127.5 - 1


def example_keys(key, step, num_examples):
  """Returns (B,) random keys for each of three purposes.

  They are folded from the step and the example's index in the global batch, so
  that a run does not depend on the number of devices.

  Args:
    key: random key of this training.
    step: updates made.
    num_examples: B, the number of examples of this replica.

  Returns:
    Keys for times, for noise and for dropout.
  """
  index = jax.lax.axis_index('batch') * num_examples + jnp.arange(num_examples)
  step_key = jax.random.fold_in(key, step)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, index)
  time_keys, noise_keys, dropout_keys = jax.vmap(
    lambda key: jax.random.split(key, 3), out_axes=1
  )(keys)
  return time_keys, noise_keys, dropout_keys


def mean_gradient(loss_fn, params, examples, parts):
  """Returns loss, metrics and gradient, one part of the examples at a time.

  Args:
    loss_fn: (params, examples) -> loss and metrics, name -> scalar, the means
      over these examples.
    params: float32, like the sums of the gradients.
    examples: pytree whose leaves have a leading axis B.
    parts: a divisor of B. With 1 there is no loop.
  """

  def gradient(params, examples):
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, examples
    )
    return loss, metrics, grads

  if parts == 1:
    return gradient(params, examples)

  def add(total, part):
    return jax.tree.map(jnp.add, total, gradient(params, part)), None

  split = jax.tree.map(lambda e: e.reshape(parts, -1, *e.shape[1:]), examples)
  first = jax.tree.map(lambda e: e[0], split)
  zeros = jax.tree.map(
    lambda a: jnp.zeros(a.shape, a.dtype),
    jax.eval_shape(gradient, params, first),
  )
  # On CPU the loop is unrolled; see `devices.compile_step`.
  unroll = parts if jax.default_backend() == 'cpu' else 1
  total, _ = jax.lax.scan(add, zeros, split, unroll=unroll)
  return jax.tree.map(lambda t: t / parts, total)


def gradient_update(state, loss_fn, examples, *, optimizer, train):
  """Returns the state after one update, and its metrics.

  Args:
    state: a TrainState.
    loss_fn: as in `mean_gradient`.
    examples: pytree of this replica's examples, with a leading axis B.
    optimizer: result of `make_optimizer(train)`.
    train: config.train.
  """
  # The mean over all replicas comes before clipping: clipping the gradient of
  # each replica would make the result depend on their number.
  loss, more, grads = jax.lax.pmean(
    mean_gradient(loss_fn, state.params, examples, train.accumulate), 'batch'
  )
  rate = optimizers.learning_rate(train, state.step, state.num_updates)
  direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
  ema_params = state.ema_params
  if ema_params is not None:
    ema_params = optimizers.update_ema(
      ema_params, params, state.step, train.ema_decay
    )
  metrics = {
    'loss': loss,
    'grad_norm': optax.tree.norm(grads),
    'learning_rate': rate,
    **more,
  }
  state = state.replace(
    step=state.step + 1,
    params=params,
    ema_params=ema_params,
    opt_state=opt_state,
  )
  return state, metrics
