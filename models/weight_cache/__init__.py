"""Cache of packed weights on disk: later starts map its files instead of packing the weights again."""
