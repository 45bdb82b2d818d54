"""Slots of the model's adapter banks: which adapter has one, and which sequences wait for one."""
