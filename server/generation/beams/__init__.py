"""Beam search: finds the likeliest answers through engine requests of one token each."""
