"""Scheduling of LoRA adapters: which adapters occupy the model's adapter slots, and which sequences wait for a slot."""
