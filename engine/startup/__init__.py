"""From options to an engine that is ready, and what it says of itself."""
