"""xtrain: fine-tune XLM-R in three phases and evaluate it zero-shot in every language."""

__version__ = "0.1.0"
