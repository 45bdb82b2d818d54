"""Training of low-rank adapters on the serving decoder, with gradients through frozen weights of every format."""
