"""Fine-tuning jobs of a server: what is stored of them, and how they are run."""
