"""Faults that tests inject into the engine process, by wrappers around its parts."""
