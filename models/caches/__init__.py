"""What is in the caches of this machine, and its removal. No torch here."""
