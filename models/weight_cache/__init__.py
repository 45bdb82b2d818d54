"""Cache of packed weights, which later starts map instead of packing them again."""
