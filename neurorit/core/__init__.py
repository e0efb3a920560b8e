"""Foundations: errors, artifacts, files written whole, settings, units, one client of servers."""

__version__ = "0.1.0"
