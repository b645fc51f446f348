"""Data sets of uint8 images, and the batches that training takes."""
