"""`headrace batch`: runs a file of requests without a server."""
