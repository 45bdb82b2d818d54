"""Blocks of the KV cache: who holds them, prefixes that are shared, recurrent states."""
