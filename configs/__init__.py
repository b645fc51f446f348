"""Config files: `--config=configs/NAME.py` runs one; base.py has every key."""
