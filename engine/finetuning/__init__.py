"""The trainer: it makes an adapter from a job's folder, in a process of its own that may be stopped at any time."""
