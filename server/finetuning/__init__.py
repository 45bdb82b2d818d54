"""Fine-tuning: training files become token ids, by the chat template that serves; and jobs run the trainer."""
