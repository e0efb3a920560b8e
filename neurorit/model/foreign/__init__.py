"""Checkpoints in the forms of others, and what is made of them."""
