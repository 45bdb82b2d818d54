"""Files that clients upload and batches write: their bytes in a folder, what is known of them in the database."""
