"""A run: what is asked of whom, in which order, and what is kept of it."""
