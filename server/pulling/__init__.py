"""Pulls: models that operators fetch into the cache while the server runs."""
