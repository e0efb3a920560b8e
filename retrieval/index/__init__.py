"""The FAISS index on disk: built in segments, searched, updated, compacted."""
