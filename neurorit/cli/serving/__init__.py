"""Commands that serve: serve, ask, bench."""
