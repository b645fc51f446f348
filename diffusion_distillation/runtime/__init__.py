"""The machine, without machine learning: devices, signals, files, logs."""
