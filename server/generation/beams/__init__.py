"""Beam search: the likeliest answers, found by requests of one token each."""
