"""JSON schemas: checks of a client's schema, and its preparation for a grammar."""
