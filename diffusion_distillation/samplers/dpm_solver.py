"""DPM-Solver and DPM-Solver++ (Lu et al. 2022), without adaptive steps.

`dpmpp_...` interpolate x_hat (DPM-Solver++, arXiv 2211.01095), and `dpm_...`
eps_hat (DPM-Solver, arXiv 2206.00927); the theory is that of exponential.py.
The number in a name is the order. Singlestep methods, with the suffix `s`, also
evaluate the network between the ends of a step; multistep methods, with the
suffix `m`, use the predictions of earlier steps. At order 1, all are DDIM.
"""

import functools

import jax
import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.samplers import exponential
from diffusion_distillation.samplers.sampler import (
  Sampler,
  one_step,
  skip_empty,
)

SOLVER_TYPES = 'midpoint', 'taylor'
INNER = 'logsnr', 'time', 'quadratic'


def singlestep(
  order,
  form,
  solver_type='midpoint',
  inner='logsnr',
  lower_order_final=False,
  last_order: int | None = None,
):
  """Returns a singlestep method, a Runge-Kutta method with `order` evaluations.

  In the eps form, steps from below log-SNR -10.2 are made by DDIM, at the same
  cost: see `exponential.change`.

  Args:
    order: 2 or 3.
    form: 'x' or 'eps'.
    solver_type: 'midpoint' (the originals' 'dpmsolver') or 'taylor': two ways
      of the same order to use the evaluations.
    inner: what the inner points divide equally: 'logsnr', 'time', or
      'quadratic', the square root of the time. In the originals the choice of
      the time grid decides this, too.
    lower_order_final: whether the last steps have the orders 3, 2, 1.
    last_order: order of the last step alone, for a grid that ends above 0; a
      step to data has order 1.

  Raises:
    ValueError: an option has none of the values above.
  """
  exponential.check('solver_type', solver_type, SOLVER_TYPES)
  exponential.check('inner', inner, INNER)
  exponential.check('last_order', last_order, (None, *range(1, order + 1)))

  def level_at(step, share):
    if inner == 'logsnr':
      return step.logsnr_t + share * (step.logsnr_s - step.logsnr_t)
    power = 2 if inner == 'quadratic' else 1
    root_t, root_s = step.t ** (1 / power), step.s ** (1 / power)
    return step.schedule((root_t + share * (root_s - root_t)) ** power)

  def advance(order, z_t, x_hat, step):
    def solve(points, logsnr, rule='exact'):
      h = (logsnr - step.logsnr_t) / 2
      z = process.ddim_step(z_t, x_hat, step.logsnr_t, logsnr)
      return z + exponential.change(form, logsnr, h, points, rule=rule)

    m_t = exponential.predict(form, z_t, x_hat, step.logsnr_t)
    points = [(jnp.zeros_like(step.logsnr_t), m_t)]
    for i in range(1, order):
      logsnr = level_at(step, i / order)
      z = solve(points, logsnr)
      m = exponential.predict(form, z, step.denoise(z, logsnr), logsnr)
      points.append(((logsnr - step.logsnr_t) / 2, m))
    if solver_type == 'taylor':
      return solve(points, step.logsnr_s)
    # In order 3, the middle point only served to predict at the last one.
    rule = 'midpoint' if order == 2 else 'exact'
    return solve([points[0], points[-1]], step.logsnr_s, rule)

  def advance_last(z_t, x_hat, step):
    index = step.index[0]
    order_here = jnp.minimum(order, index + 1) if lower_order_final else order
    if last_order is not None:
      order_here = jnp.where(index == 0, last_order, order_here)
    branches = [
      functools.partial(advance, k, z_t, x_hat, step)
      for k in range(1, order + 1)
    ]
    return jax.lax.switch(order_here - 1, branches)

  is_fixed = not lower_order_final and last_order is None
  return one_step(
    functools.partial(advance, order) if is_fixed else advance_last,
    order=order,
    nfe_per_step=order,
    # The step to data has order 1 anyway. In order 3, the step before it then
    # has order 2, which saves one evaluation.
    nfe_saved=order - 2 if lower_order_final else 0,
  )


def multistep(
  order, form, curvature, solver_type='midpoint', lower_order_final=False
):
  """Returns a multistep method, with one evaluation in each step.

  Its first steps have the orders 1 and 2, since they have few predictions to
  use. The first step limits the order of the method to 2, though its error is
  small if it starts from noise.

  Args:
    order: 2 or 3.
    form: 'x' or 'eps'.
    curvature: factor of the term with the second derivative.
    solver_type: 'midpoint' (the originals' 'dpmsolver') or 'taylor': whether
      steps of order 2 take the linear part of the prediction at the middle of
      the step, or integrate it exactly.
    lower_order_final: whether the last steps have the orders 3, 2, 1. The
      originals do so below 10 steps, and diffusers below 15.

  Raises:
    ValueError: solver_type has none of the values above.
  """
  exponential.check('solver_type', solver_type, SOLVER_TYPES)
  rule = 'midpoint' if solver_type == 'midpoint' else 'exact'

  def step(z_t, x_hat, step, history):
    h = (step.logsnr_s - step.logsnr_t) / 2
    m_t = exponential.predict(form, z_t, x_hat, step.logsnr_t)
    points = [(jnp.zeros_like(h), m_t), *exponential.behind(history)]
    used = 1 + exponential.known(history)
    if lower_order_final:
      used = jnp.minimum(used, step.index + 1)
    z_s = process.ddim_step(z_t, x_hat, step.logsnr_t, step.logsnr_s)
    z_s += exponential.change(
      form, step.logsnr_s, h, points, used, rule, curvature
    )
    return z_s, ((m_t, h), *history[:-1])

  return Sampler(
    skip_empty(step),
    order=2,
    init=lambda z: exponential.no_history(z, order - 1),
  )


def multistep_3(
  form, solver_type='midpoint', lower_order_final=False, corrected=False
):
  """Returns the multistep method of order 3, as published or corrected.

  The published formula, that of the originals and of diffusers, uses the second
  divided difference in place of the second derivative, which is twice as large.
  So it is a method of order 2; `corrected` doubles the difference. With steps
  of equal length in log-SNR from -10 to 4, the error falls as num_steps^-2.2 as
  published, and as num_steps^-3.1 corrected.

  Args:
    form: 'x' or 'eps'.
    solver_type: as in `multistep`.
    lower_order_final: as in `multistep`.
    corrected: whether to double the second divided difference.

  Raises:
    ValueError: as in `multistep`.
  """
  curvature = 1.0 if corrected else 0.5
  return multistep(3, form, curvature, solver_type, lower_order_final)


def _named(summary, method, *arguments):
  """Returns the factory of a method of some order and form."""
  factory = functools.partial(method, *arguments)
  factory.__doc__ = f'Returns {summary}.'
  return factory


dpmpp_2s = _named('DPM-Solver++(2S), singlestep', singlestep, 2, 'x')
dpmpp_3s = _named('DPM-Solver++(3S), singlestep', singlestep, 3, 'x')
dpmpp_2m = _named('DPM-Solver++(2M), multistep', multistep, 2, 'x', 1.0)
dpmpp_3m = _named(
  'DPM-Solver++(3M), multistep, as published or `corrected`', multistep_3, 'x'
)
dpm_2s = _named('DPM-Solver-2, singlestep in eps', singlestep, 2, 'eps')
dpm_3s = _named('DPM-Solver-3, singlestep in eps', singlestep, 3, 'eps')
dpm_2m = _named('DPM-Solver-2, multistep in eps', multistep, 2, 'eps', 1.0)
dpm_3m = _named(
  'DPM-Solver-3, multistep in eps, as published or `corrected`',
  multistep_3,
  'eps',
)
