"""Noise for training and evaluation: chosen, made, and mixed with gold passages."""
