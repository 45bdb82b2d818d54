"""Options of what is stored for clients: files and batches."""
