"""Encoders: text to unit vectors, in this process or behind an address."""
