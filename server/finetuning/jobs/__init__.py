"""Fine-tuning jobs of a server: a kind of background job with two stages, file preparation and training."""
