"""`headrace doctor`: checks the machine and a server's options, and reports problems."""
