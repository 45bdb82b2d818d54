"""Synthesis of training lines: recipes, their sources, steps and checks, and the acceptance of lines by step."""
