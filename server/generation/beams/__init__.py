"""Beam search: the likeliest answers, found by engine requests of one token each."""
