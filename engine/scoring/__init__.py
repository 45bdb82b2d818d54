"""Scoring of labels: requests whose sequences share a state, and the walk over the labels of each question."""
