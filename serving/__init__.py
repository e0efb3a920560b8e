"""Serving: an OpenAI-compatible RAG gateway over vLLM."""
