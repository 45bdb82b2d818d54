"""Options of the API process, as dataclasses: ServerConfig, and its parts such as NetworkConfig."""
