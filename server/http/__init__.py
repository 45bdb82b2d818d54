"""HTTP beneath the routes: bodies, server-sent events, disconnects, what surrounds every request."""
