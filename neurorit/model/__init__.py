"""Checkpoints: loading, where their neurons are, prompts, shared prefixes, processes."""
