"""Retrieval: corpora, encoders, FAISS and BM25 indexes, search, and noise for examples."""
