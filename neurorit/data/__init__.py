"""Questions, answers and passages: examples, published data sets, text, contamination."""
