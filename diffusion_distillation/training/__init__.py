"""Teacher and student steps, the loop around them, and Algorithm 2."""
