"""BM25 over the same passages, built in bounded memory."""
