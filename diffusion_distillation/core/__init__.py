"""The paper as pure functions: JAX arrays in, arrays out."""
