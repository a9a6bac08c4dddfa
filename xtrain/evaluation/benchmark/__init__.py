"""The benchmark's own definitions: metrics, the leaderboard's files, scoring, submissions. No torch, no transformers.

The evaluators of :mod:`xtrain.evaluation` use the same metric functions, so that ``scores.json`` and
``python -m xtrain score`` cannot differ.
"""
