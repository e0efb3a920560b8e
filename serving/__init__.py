"""Tuned checkpoints behind vLLM and a retrieval-augmented gateway."""
