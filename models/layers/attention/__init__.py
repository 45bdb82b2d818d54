"""Attention of a layer over the KV cache: its own, latent, and over keys and values of an earlier layer."""
