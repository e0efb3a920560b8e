"""Retrieval-augmented answering: search, prompt budget, citations, abstention, comparison."""
