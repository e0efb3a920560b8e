"""Noisy-retrieval question answering: conditions, answers, metrics, judge, statistics, report."""
