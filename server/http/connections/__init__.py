"""Connections: the raw HTTP and TLS layer below the application, and what proxies say about clients."""
