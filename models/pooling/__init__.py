"""From the hidden states of a text's tokens to one vector: as a checkpoint of sentence-transformers says."""
