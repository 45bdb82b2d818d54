"""Scaling of fine-tuning jobs: their held-out losses at several sizes, and the power law that is fitted to them."""
