"""Data sets as uint8 images, and the pipeline that batches them."""
