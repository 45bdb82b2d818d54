"""JSON schemas: validation of a client's schema, and its preparation for a grammar."""
