"""`headrace serve`: the life of the server process, from its options to its exit."""
