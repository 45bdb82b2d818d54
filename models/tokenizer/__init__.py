"""A checkpoint's tokenizer as `tokenizers` JSON, converted from the other formats."""
