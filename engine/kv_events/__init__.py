"""Publication of events about cached blocks over ZeroMQ."""
