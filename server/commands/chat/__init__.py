"""`headrace chat`, `complete`, `ps` and `top`: terminal clients of a running server, or of one started for them."""
