"""A checkpoint's tokenizer as `tokenizers` JSON, converted where it is stored otherwise."""
