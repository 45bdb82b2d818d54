"""Commands that run the engine's parts in a process of their own."""
