"""Reinforcement learning: the adapter's own answers are graded, and those above their prompt's mean become likelier."""
