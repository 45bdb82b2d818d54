"""GenerationParams: built from the fields of a body, by checks and tokenization."""
