"""Fine-tuning: tokenization of training files with the served model's chat template, and jobs that run the trainer."""
