"""Trains, distills, samples and evaluates diffusion models; see --help.

python main.py --config=configs/digits_distill.py --workdir=runs/digits

The flags are in diffusion_distillation/commands/cli.py, the modes in the table
of diffusion_distillation/commands/__init__.py.
"""

from diffusion_distillation.commands import cli

if __name__ == '__main__':
  cli.main()
