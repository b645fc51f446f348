"""How good samples are, and the report that says so."""
