"""Files that clients upload and jobs write: contents in a folder, metadata in the database."""
