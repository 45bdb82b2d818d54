"""What a command that runs in a process of its own shares with the one that started it: options, progress, results."""
