"""Decisions: answers to questions about a text as probabilities of labels, read from a model that generates."""
