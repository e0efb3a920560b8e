"""What the benchmarks share: timing, results, data, and the rivals of vector search."""
