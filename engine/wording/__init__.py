"""Words for messages that people read."""
