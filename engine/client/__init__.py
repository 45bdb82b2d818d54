"""Both ends of the wire between the API process and the engine process."""
