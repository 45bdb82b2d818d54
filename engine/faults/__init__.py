"""Faults that tests inject into the engine process: wrappers around what it works with, and nothing without."""
