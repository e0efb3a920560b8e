"""Corpora read as passages: files, records, chunks, near duplicates."""
