"""From measurements to tables, curves and one page."""
