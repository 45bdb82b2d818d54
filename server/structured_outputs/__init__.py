"""Structured outputs: JSON schemas, regular expressions, choices and grammars become one grammar for the engine."""
