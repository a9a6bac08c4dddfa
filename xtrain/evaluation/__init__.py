"""Evaluation: predictions by language, metrics, and ``scores.json`` with its protocol."""
