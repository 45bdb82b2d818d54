"""What an answer must match: JSON schemas, regular expressions, choices and grammars, as one grammar for the engine."""
