"""Files that clients upload and jobs write: their bytes in a folder, everything else in the database."""
