"""Text and token ids: chat templates, the tokenizer, detokenizing, stop strings."""
