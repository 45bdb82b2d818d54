"""`headrace data`: prepares training files, and shows the report of a preparation."""
