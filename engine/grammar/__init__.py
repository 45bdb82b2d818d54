"""Grammars that outputs must match: compiled beside the steps, and followed token by token."""
