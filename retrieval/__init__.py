"""Passages in, ranked passages out. This room knows no language model and no server."""
