"""Parts that all endpoints share: the Endpoint object, the kinds of work, the registry, and the routes."""
