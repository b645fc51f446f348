"""Images from seeds, and the files that hold them."""
