"""What is minimized: pure losses of denoise functions."""
