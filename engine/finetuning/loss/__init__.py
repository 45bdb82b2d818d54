"""The loss of a step and its gradients: of the examples, and of the anchor that keeps the adapter near its base."""
