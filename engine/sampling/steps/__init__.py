"""Steps of the sampling pipeline, one per file."""
