"""Text and token ids: chat templates, the tokenizer, detokenization and stop strings."""
