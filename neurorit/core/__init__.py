"""Foundations: errors, artifacts, files written whole, settings, units, one client of servers."""
