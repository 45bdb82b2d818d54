"""Steps of the sampler's pipeline, a file for each."""
