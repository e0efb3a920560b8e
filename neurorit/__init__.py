"""Neuro-RIT: mine feed-forward neurons, tune them in two stages. This room knows no server."""

__version__ = "0.1.0"
