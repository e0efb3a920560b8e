"""Retention: what a tuned model keeps of its base on text and tasks that tuning never saw."""
