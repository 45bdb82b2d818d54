"""Scores of lines by a model, and the removal and order of lines by them."""
