"""One request to a pooling model: its texts encoded, computed together, counted, and written as numbers."""
