"""Flax networks, and the denoiser that binds one to the mathematics."""
