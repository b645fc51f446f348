"""Measurements of speed and memory; their results are in results/."""
