"""Progressive distillation of diffusion models in JAX (arXiv 2202.00512).

Read in this order: core/process (the theory), core/targets (the method),
samplers/loop, networks/denoiser (the seam), training/student,
training/progressive (Algorithm 2), main.py.
"""

__version__ = '0.2.0'
