"""`headrace chat`, `complete`, `ps` and `top`: clients in the terminal, of a running server or one started for them."""
