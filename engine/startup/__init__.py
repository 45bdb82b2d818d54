"""Start of an engine: from options to an engine that is ready, and its description."""
