"""Loading of a checkpoint's tokenizer, converted to the JSON of the `tokenizers` library."""
