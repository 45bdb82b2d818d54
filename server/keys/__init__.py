"""Who may call, and how much: callers and their keys."""
