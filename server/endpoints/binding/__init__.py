"""The machinery that all endpoints share: the Endpoint class, kinds of work, the registry, and the routes."""
