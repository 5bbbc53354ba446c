"""Accuracy on multiple-choice questions: the option-letter method, its nulls, results on disk."""
