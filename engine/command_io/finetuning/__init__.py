"""Fine-tuning jobs as they stand in a folder: request, examples, events and results. No torch here."""
