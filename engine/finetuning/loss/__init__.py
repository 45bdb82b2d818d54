"""The loss of a step: what the examples ask for, what holds the adapter to its base, and the gradients of both."""
