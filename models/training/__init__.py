"""Low-rank adapters trained on the decoder that serves: gradients through frozen weights of every format."""
