"""Measurements that can be run again; their results are in results/."""
