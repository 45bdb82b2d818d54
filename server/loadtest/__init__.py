"""`headrace bench serve`: puts a load on a server over HTTP, and measures it from the clients' side."""
