"""`headrace bench serve`: a load on a server over HTTP, and its measurement from the clients' side."""
