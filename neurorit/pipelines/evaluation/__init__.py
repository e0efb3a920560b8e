"""Noisy-retrieval QA evaluation: settings, judge, gates, reports, traces."""
