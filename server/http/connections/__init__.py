"""Connections: HTTP/1.1 and TLS below the application, connection limits, and client addresses behind proxies."""
