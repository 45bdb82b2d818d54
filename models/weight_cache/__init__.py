"""Packed weights in the cache folder, mapped by later starts."""
