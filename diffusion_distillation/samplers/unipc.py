"""UniPC, a multistep predictor and a corrector that costs no evaluation."""

import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.samplers import exponential
from diffusion_distillation.samplers.sampler import Sampler, skip_empty

VARIANTS = {'exact': 'exact', 'bh1': 'half', 'bh2': 'midpoint'}


def unipc(order=2, variant='exact', form='x', lower_order_final=False):
  """Returns UniPC (Zhao et al. 2023), a predictor-corrector multistep method.

  The predictor, UniP of arXiv 2302.04867, is a multistep method. The corrector,
  UniC, repeats the predictor's step with one more prediction, the one at the
  end of the step. The next step needs this prediction anyway, and so begins
  with the corrector; at the corrected point no new prediction is made. The last
  step has no corrector.

  The published variants `bh1` and `bh2` differ from `exact` where only two
  predictions are used, in the predictor of order 2 and the corrector of order
  1: there they approximate an integral, and are inaccurate in long steps.

  Args:
    order: 1 to 3, of the predictor; the corrector adds one. The first steps,
      whose predictors have the orders 1 and 2, limit that of the method to 3.
    variant: 'exact', 'bh1' or 'bh2'.
    form: 'x' or 'eps', the prediction that is interpolated.
    lower_order_final: whether the last predictors have the orders 3, 2, 1.

  Raises:
    ValueError: an option has none of the values above.
  """
  exponential.check('order', order, (1, 2, 3))
  exponential.check('variant', variant, VARIANTS)
  exponential.check('form', form, exponential.FORMS)
  rule = VARIANTS[variant]

  def used(history, step_index):
    count = 1 + exponential.known(history)
    return jnp.minimum(count, step_index + 1) if lower_order_final else count

  def init(z):
    return exponential.no_history(z, order), z

  def step(z_t, x_hat, step, memory):
    history, by_ddim = memory
    m_t = exponential.predict(form, z_t, x_hat, step.logsnr_t)

    # Repeats the step that ended at z_t, with points as seen from its start.
    (m_before, before), *earlier = history
    start = jnp.zeros_like(before)
    points = [(start, m_before), (before, m_t), *exponential.behind(earlier)]
    corrected = by_ddim + exponential.change(
      form,
      step.logsnr_t,
      before,
      points,
      1 + used(earlier, step.index + 1),
      rule,
    )
    is_first = process.expand(before == 0, z_t)
    correction = jnp.where(is_first, 0, corrected - z_t)

    alpha_t, sigma_t = process.alpha_sigma(step.logsnr_t)
    alpha_s, sigma_s = process.alpha_sigma(step.logsnr_s)
    ratio = sigma_s / sigma_t if form == 'x' else alpha_s / alpha_t
    by_ddim = process.ddim_step(z_t, x_hat, step.logsnr_t, step.logsnr_s)
    by_ddim += process.expand(ratio, z_t) * correction

    h = (step.logsnr_s - step.logsnr_t) / 2
    recent = history[:-1]
    points = [(jnp.zeros_like(h), m_t), *exponential.behind(recent)]
    z_s = by_ddim + exponential.change(
      form, step.logsnr_s, h, points, used(recent, step.index), rule
    )
    return z_s, (((m_t, h), *recent), by_ddim)

  return Sampler(skip_empty(step), order=min(order + 1, 3), init=init)
