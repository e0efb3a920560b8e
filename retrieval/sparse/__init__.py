"""Search by learned sparse vectors (SPLADE)."""
