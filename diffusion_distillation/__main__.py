"""`python -m diffusion_distillation`: the command line of main.py."""

from diffusion_distillation.commands import cli

if __name__ == '__main__':
  cli.main()
