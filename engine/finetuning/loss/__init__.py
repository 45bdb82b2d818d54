"""The training loss and its gradients: on the examples, plus an anchor that keeps the adapter close to the base
model."""
