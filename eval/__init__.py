"""Evaluation of question answering under noisy retrieval: metrics, judges, statistics, reports."""
