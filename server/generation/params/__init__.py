"""Parameters of a generation: from the fields of a body, by checks and encoded prompts, to GenerationParams."""
