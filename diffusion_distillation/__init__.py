"""Diffusion models, and their distillation into samplers of a few steps.

Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512) in JAX and Flax.
The core is pure functions; networks and mathematics meet in one function,
`denoise(z, logsnr) -> x_hat`. Read in this order:

  core/process            the diffusion process: its theory and its formulas
  core/targets            what a student is trained to predict
  samplers/loop           from noise to images, and one file per sampler family
  networks/denoiser       how a Flax network becomes such a function
  objectives/progressive  the method: its loss and its rounds
  training/step           one update, for every objective
  training/trainer        one loop over all rounds of a run
  commands/               the command line, one file for each mode
"""

__version__ = '0.2.0'
