"""The trainer: a job's folder becomes an adapter, in a process of its own that may be stopped at any time."""
