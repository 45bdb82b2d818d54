"""The trainer process, which trains a LoRA adapter from a job's folder, and can be stopped and continued at any
time."""
