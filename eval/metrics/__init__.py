"""Metrics of an answer: correct, refused, faithful, robust."""
