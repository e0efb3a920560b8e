"""Commands of retrieval: index, update, search, mix, data."""
