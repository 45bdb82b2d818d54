"""The cache: keys, values and recurrent states of all layers, and groups of layers that share block tables."""
