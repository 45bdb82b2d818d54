"""Grammars that constrain outputs: compiled in the background, and followed token by token."""
