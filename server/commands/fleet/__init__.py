"""`headrace fleet`: several whole servers behind one address, started and replaced by Ray Serve."""
