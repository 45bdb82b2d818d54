"""`headrace calibrate`: fits the probabilities of a model's decisions to answers that are known."""
