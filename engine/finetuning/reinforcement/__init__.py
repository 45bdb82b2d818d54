"""Reinforcement learning (GRPO): trains on the adapter's own graded answers, toward those with higher rewards."""
