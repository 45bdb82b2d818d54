"""Fine-tuning jobs as folders: request, examples, events and results. No torch here."""
