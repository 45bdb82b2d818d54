"""`headrace doctor`: looks at the machine and the options of a server, and says in words what is wrong."""
