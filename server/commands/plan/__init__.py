"""`headrace plan`: how many users a machine takes within limits of time, and what would change it."""
