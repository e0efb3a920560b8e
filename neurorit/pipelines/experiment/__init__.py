"""Experiments: variants and seeds, tuned and evaluated, in one table."""
