"""How each protocol writes a generation: as a whole, and as a stream's events."""
