"""Reading of answers that are still arriving: text, JSON and calls, emitted as events."""
