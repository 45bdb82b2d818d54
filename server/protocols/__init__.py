"""API protocols: translation of requests, and formatting of generations as responses and streams."""
