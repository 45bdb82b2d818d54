"""Whole texts in one forward pass, side by side and without padding, whose keys and values nobody needs afterwards."""
