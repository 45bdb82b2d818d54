"""Detection of the tool format that a chat template shows."""
