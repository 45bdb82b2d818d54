"""`headrace replay`: computes a stored answer again, and shows whether it is the same."""
