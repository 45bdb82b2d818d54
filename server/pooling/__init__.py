"""Requests to pooling models: texts are encoded, computed together, counted, and written as numbers."""
