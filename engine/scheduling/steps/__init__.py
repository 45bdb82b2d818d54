"""One step: how many tokens it may compute, how they are divided, and what it did."""
