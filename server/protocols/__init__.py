"""Protocols of clients: how a request is translated, and how a generation is written, as a whole and as a stream."""
