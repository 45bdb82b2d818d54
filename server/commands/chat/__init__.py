"""`headrace chat` and `headrace complete`: a model in the terminal, on a server that runs or one started for it."""
