"""The SDE view: samplers of the reverse-time SDE, and Langevin dynamics.

The process may be scaled by a number that depends on time: y = (a / alpha) z
has the marginals N(a x, k^2 I) with a^2 / k^2 = e^logsnr. An SDE is determined
by its scale a at each noise level (Song et al. 2021, arXiv 2011.13456, section
3.4): a = alpha preserves variance ('vp'), with a = 1 it explodes ('ve'), and
the sub-VP SDE ('subvp') has the a for which k = 1 - a^2. Everything else
follows from the schedule:

  (1)  dy = f y dt + g dw,   f = dlog(a)/dt,   g^2 = -k^2 dlogsnr/dt,
  (2)  score = (a x_hat - y) / k^2 = (a / alpha) (alpha x_hat - z) / k^2,
  (3)  y_t = r y_s + sqrt(v) noise,   r = a_t / a_s,
       v = (1 - e^{logsnr_t - logsnr_s}) k_t^2.

The schedule gives the noise levels of every SDE, so that all of them are
sampled with one network. For the sub-VP SDE of Song et al., the schedule is
2 log(alpha / (1 - alpha^2)) with their alpha.

Their program, score_sde, makes steps of length 1 / N whatever the grid, and has
discrete levels at index / (N - 1); `steps=score_sde` does the same. On the grid
`np.append(np.linspace(1, eps, N), eps)`, and without the noise of the last
predictor step, the samples equal theirs. With the default, `steps=grid`, a step
goes from t to s. Its variance v is below k_t^2, and below 1 for 'vp'; theirs is
above 1 with fewer than 20 steps, and then gives NaN.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.core.schedules import fraction
from diffusion_distillation.samplers.exponential import check
from diffusion_distillation.samplers.sampler import one_step, skip_empty

# name -> function of logsnr that returns log(a).
SDES = {
  'vp': lambda logsnr: jax.nn.log_sigmoid(logsnr) / 2,
  # a is the positive root of a^2 + 2 w a = 1, w = e^{-logsnr / 2} / 2, by a
  # formula in which nothing cancels.
  'subvp': lambda logsnr: -jnp.arcsinh(jnp.exp(-logsnr / 2) / 2),
  've': jnp.zeros_like,
}
PREDICTORS = 'euler_maruyama', 'reverse_diffusion', 'ancestral', 'none'
CORRECTORS = 'langevin', 'ald'
STEPS = 'grid', 'score_sde'


class Transition(NamedTuple):
  """The distribution of y_t given y_s, Eq. (3), or its approximation."""

  ratio: jax.Array  # (B,) r
  variance: jax.Array  # (B,) v
  shrink: jax.Array  # (B,) k_s / k_t


def scale(sde, logsnr):
  """Returns y / z at a noise level, for an SDE in SDES."""
  return jnp.exp(SDES[sde](logsnr) - SDES['vp'](logsnr))


def std(sde, logsnr):
  """Returns k, the std of the noise in y at a level, for an SDE in SDES."""
  return jnp.exp(SDES[sde](logsnr) - logsnr / 2)


def score(sde, z, x_hat, logsnr):
  """Returns the score of y, Eq. (2), where y is z in the units of the SDE.

  A long step to little noise multiplies the score by up to 200 k^2, and with it
  the rounding of alpha x_hat - z. This is therefore computed as
  (x_hat - z) + (alpha - 1) x_hat: near data the first term is exact and the
  second is small, which leaves the rounding of z and x_hat themselves.

  Args:
    sde: name in SDES.
    z: (B, ...) noisy images.
    x_hat: like z, the prediction of the clean images.
    logsnr: (B,) noise level of z.
  """
  logsnr = process.expand(logsnr, z)
  difference = x_hat - z + jnp.expm1(SDES['vp'](logsnr)) * x_hat
  return difference * scale(sde, logsnr) / std(sde, logsnr) ** 2


def rates(sde, schedule, t):
  """Returns f and g^2, (B,) each, of an SDE in SDES at (B,) times, Eq. (1)."""

  def of_time(t):
    logsnr = schedule(t)
    return SDES[sde](logsnr), logsnr

  (_, logsnr), (f, slope) = jax.jvp(of_time, (t,), (jnp.ones_like(t),))
  return f, -slope * std(sde, logsnr) ** 2


def exact_transition(sde, logsnr_t, logsnr_s):
  """Returns the Transition of an SDE in SDES between (B,) levels, Eq. (3)."""
  ratio = jnp.exp(SDES[sde](logsnr_t) - SDES[sde](logsnr_s))
  std_t, std_s = std(sde, logsnr_t), std(sde, logsnr_s)
  variance = -jnp.expm1(logsnr_t - logsnr_s) * std_t**2
  return Transition(ratio, variance, std_s / std_t)


def euler_transition(sde, schedule, t, dt):
  """Returns the Transition by Eq. (1) with rates constant over the step dt."""
  f, g_squared = rates(sde, schedule, t)
  return Transition(1 + f * dt, g_squared * dt, jnp.ones_like(f))


def discrete_transition(sde, step):
  """Returns the Transition of step `index` of N in Song et al.'s program.

  For 'vp' it is that of DDPM, with beta_i = beta(i / (N - 1)) / N, but at most
  0.999; for 've' that of NCSN, whose last step ends at data; and for 'subvp'
  that of Euler-Maruyama.
  """
  index, num_steps = step.index, jnp.asarray(step.num_steps)
  length = fraction(1, num_steps)
  if sde == 'subvp':
    return euler_transition(sde, step.schedule, step.t, length)

  def time(index):
    return fraction(index, jnp.maximum(num_steps - 1, 1))

  if sde == 've':
    std_t, std_s = (
      std(sde, step.schedule(time(i))) for i in (index, index - 1)
    )
    std_s = jnp.where(index == 0, 0, std_s)
    return Transition(jnp.ones_like(std_t), std_t**2 - std_s**2, std_s / std_t)
  # At time 0 logsnr may be infinite, so beta is taken just beside it.
  f, _ = rates(sde, step.schedule, jnp.maximum(time(index), 1e-8))
  beta = jnp.minimum(-2 * f * length, 0.999)
  return Transition(jnp.sqrt(1 - beta), beta, jnp.ones_like(beta))


def reverse_mean(y, score, transition):
  """Returns the mean of y_s by the reversed transition.

  It is (2 - r) y + v score (Song et al. 2021, appendix E). For the transition
  of `euler_transition`, that is Euler-Maruyama's mean.
  """
  ratio, variance = (process.expand(each, y) for each in transition[:2])
  return (2 - ratio) * y + variance * score


def ancestral_mean(y, score, transition):
  """Returns the mean of y_s by ancestral sampling, (y + v score) / r.

  It is the mean of `process.posterior` (Song et al. 2021, Eq. 4 and appendix
  F), except for a rounding of 1e-7 / r, which is 1e-3 in a step from log-SNR
  -20 to 0.
  """
  ratio, variance = (process.expand(each, y) for each in transition[:2])
  return (y + variance * score) / ratio


def langevin_step(y, score, size, noise):
  """Returns y + size score + sqrt(2 size) noise (arXiv 1907.05600, Alg. 1).

  The paper's alpha is 2 size.

  Args:
    y: (B, ...) noisy images in the units of an SDE.
    score: like y.
    size: (B,) step size.
    noise: like y, standard normal.
  """
  size = process.expand(size, y)
  return y + size * score + jnp.sqrt(2 * size) * noise


def langevin_size(score_norm, noise_norm, snr, ratio=1.0):
  """Returns 2 r^2 (snr |noise| / |score|)^2 (arXiv 2011.13456, Algs. 4, 5)."""
  return 2 * (ratio * snr * noise_norm / score_norm) ** 2


def norm(images):
  """Returns the (B,) norms of images."""
  return jnp.sqrt(jnp.sum(images**2, axis=tuple(range(1, images.ndim))))


def predictor_corrector(
  predictor='reverse_diffusion',
  corrector='langevin',
  corrector_steps=1,
  snr=0.16,
  sde='vp',
  steps='grid',
):
  """Returns predictor-corrector sampling (Song et al. 2021, Algs. 2 to 5).

  At every noise level but the last, steps of Langevin dynamics correct the
  images, then the predictor goes to the next level. The size of a Langevin step
  depends on norms of the score and the noise. Those are norms of each image;
  Song et al.'s program averages them over the batch, so that its images depend
  on each other.

  Args:
    predictor: 'euler_maruyama', 'reverse_diffusion', 'ancestral' (with the
      larger of its two variances, but for 've' with the smaller one), or
      'none', with which equal times make further Langevin steps at their level.
    corrector: 'langevin', or 'ald', whose step size is 2 r^2 (snr k)^2.
    corrector_steps: Langevin steps at each level.
    snr: how large the noise of a Langevin step is, relative to the step.
    sde: 'vp', 'subvp' or 've'.
    steps: 'grid' or 'score_sde'; see the head of this file.

  Raises:
    ValueError: an option has none of these values, snr is not positive, or
      there is neither a predictor nor a corrector step.
  """
  check('predictor', predictor, PREDICTORS)
  check('corrector', corrector, CORRECTORS)
  check('sde', sde, SDES)
  check('steps', steps, STEPS)
  has_predictor = predictor != 'none'
  if corrector_steps < 0 or not (corrector_steps or has_predictor):
    raise ValueError(
      'corrector_steps must be at least 0, and 1 without a predictor, got '
      f'{corrector_steps}'
    )
  if not 0 < snr < math.inf:
    raise ValueError(f'snr must be above 0 and finite, got {snr}')

  def transition_of(step):
    if steps == 'score_sde':
      return discrete_transition(sde, step)
    return exact_transition(sde, step.logsnr_t, step.logsnr_s)

  def correct(y, score, noise, step):
    ratio = transition_of(step).ratio
    if corrector == 'ald':
      size = 2 * (ratio * snr * std(sde, step.logsnr_t)) ** 2
    else:
      size = langevin_size(norm(score), norm(noise), snr, ratio)
    return langevin_step(y, score, size, noise)

  def predict(y, score, noise, step):
    if predictor == 'euler_maruyama':
      dt = step.t - step.s if steps == 'grid' else fraction(1, step.num_steps)
      transition = euler_transition(sde, step.schedule, step.t, dt)
    else:
      transition = transition_of(step)
    std_of_noise = process.expand(jnp.sqrt(transition.variance), y)
    if predictor != 'ancestral':
      return reverse_mean(y, score, transition) + std_of_noise * noise
    if sde == 've':
      std_of_noise *= process.expand(transition.shrink, y)
    return ancestral_mean(y, score, transition) + std_of_noise * noise

  sampler = _sampler(
    sde,
    correct,
    predict if has_predictor else correct,
    num_moves=corrector_steps + has_predictor,
    order=0 if corrector_steps else 1,
  )
  if corrector_steps and has_predictor and steps == 'grid':
    return dataclasses.replace(sampler, step=skip_empty(sampler.step))
  return sampler


def euler_maruyama(sde='vp', steps='grid'):
  """Returns the Euler-Maruyama method for the reverse-time SDE in t.

  A step is y - (f y - g^2 score) (t - s) + g sqrt(t - s) noise (Song et al.
  2021, Eq. 6). On the cosine schedule f is large near noise: for Gaussian data
  with a standard deviation of 0.5, samples have one of 7.8 in 8 steps, 0.72 in
  16 and 0.51 in 32.

  Args:
    sde: 'vp', 'subvp' or 've'.
    steps: 'grid', or 'score_sde' for t - s = 1 / N.
  """
  return predictor_corrector(
    'euler_maruyama', corrector_steps=0, sde=sde, steps=steps
  )


def reverse_diffusion(sde='vp', steps='grid'):
  """Returns the reverse-diffusion predictor, which reverses the transition.

  A step is (2 - r) y + v score + sqrt(v) noise (Song et al. 2021, appendix E).
  For 've' a long step draws about as much noise as there was before it: for
  Gaussian data with a standard deviation of 0.5, samples in 64 uniform steps
  from log-SNR -20 have one of 3.4, and on the grid `karras` 0.545.

  Args:
    sde: 'vp', 'subvp' or 've'.
    steps: 'grid' or 'score_sde'; see the head of this file.
  """
  return predictor_corrector(
    'reverse_diffusion', corrector_steps=0, sde=sde, steps=steps
  )


def annealed_langevin(steps_per_level=10, step_lr: float | None = None):
  """Returns annealed Langevin dynamics (Song & Ermon 2019, Alg. 1).

  It makes the steps of NCSN (arXiv 1907.05600), y + size score + sqrt(2 size)
  noise for 've', with size = step_lr (k / k_L)^2, where k_L is the last noise
  level. There, the loop returns x_hat, which is the final denoising of NCSNv2
  (arXiv 2006.09011). Equal times make further steps at their level. NCSN also
  makes steps at k_L, so its levels k_1 to k_L are a grid of their times with
  the last one twice, followed by 0 if the samples are to be denoised.

  Args:
    steps_per_level: Langevin steps, and network evaluations, at each level.
    step_lr: size of the steps at k_L. None is 0.2 k_L^2, which is NCSN's 2e-5
      at its k_L = 0.01.

  Raises:
    ValueError: an option is not positive, or not finite.
  """
  is_size = step_lr is None or 0 < step_lr < math.inf
  if steps_per_level < 1 or not is_size:
    raise ValueError(
      'steps_per_level must be at least 1 and step_lr above 0 and finite, got '
      f'{steps_per_level} and {step_lr}'
    )

  def move(y, score, noise, step):
    size = 0.2 * std('ve', step.logsnr_t) ** 2
    if step_lr is not None:
      end, before = (step.time(index, step.num_steps) for index in (0, 1))
      last = step.schedule(jnp.where(end == 0, before, end))
      size = step_lr * jnp.exp(last - step.logsnr_t)
    return langevin_step(y, score, size, noise)

  return _sampler('ve', move, move, num_moves=steps_per_level, order=0)


def _sampler(sde, move, last_move, *, num_moves, order):
  """Returns the Sampler that makes several moves at each noise level.

  Args:
    sde: name in SDES.
    move, last_move: (y, score, noise, step) -> y. `last_move` is the last one
      at a level, and leads to the next level.
    num_moves: moves in each step, one network evaluation and one draw each.
    order: as in Sampler.
  """

  def advance(z_t, x_hat, step):
    logsnr_t = step.logsnr_t
    scale_t, scale_s = (
      process.expand(scale(sde, logsnr), z_t)
      for logsnr in (logsnr_t, step.logsnr_s)
    )
    draws = step.noise if num_moves > 1 else step.noise[None]

    def moved(move, state, i):
      z, x_hat = state
      score_of_y = score(sde, z, x_hat, logsnr_t)
      return move(scale_t * z, score_of_y, draws[i], step)

    def move_and_predict(i, state):
      z = moved(move, state, i) / scale_t
      return z, step.denoise(z, logsnr_t)

    state = z_t, x_hat
    if num_moves > 1:
      state = jax.lax.fori_loop(0, num_moves - 1, move_and_predict, state)
    return moved(last_move, state, num_moves - 1) / scale_s

  return one_step(
    advance,
    order=order,
    nfe_per_step=num_moves,
    draws_noise=True,
    draws_per_step=num_moves,
  )
