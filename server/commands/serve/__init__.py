"""`headrace serve`: the server process, from its options to its exit."""
