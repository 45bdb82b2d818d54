"""What the engine tells of single sequences beside their outputs, for people who ask what became of a request."""
