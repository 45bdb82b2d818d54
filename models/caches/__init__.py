"""Inventory of the caches on this machine, and removal of entries. Imports no torch."""
