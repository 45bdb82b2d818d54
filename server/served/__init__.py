"""The models that this server has, and which one a request means."""
