"""Speculative decoding: sources of drafts, the choice of their lengths, and their measured gain."""
