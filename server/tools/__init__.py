"""Tool calls: how a model writes them, found from its chat template; read from its text, and forced upon it."""
