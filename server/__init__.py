"""The API process: command line, HTTP server, and text processing."""
