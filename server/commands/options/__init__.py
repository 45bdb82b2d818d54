"""Fields of the config dataclasses as options: flags, environment variables and keys of a YAML file."""
