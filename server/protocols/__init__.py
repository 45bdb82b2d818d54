"""The protocols that clients speak: how each writes a generation, as a whole and as a stream of events."""
