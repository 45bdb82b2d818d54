"""Training files: lines of text become token ids, by the chat template that serves."""
