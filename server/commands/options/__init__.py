"""Options of the config dataclasses on the command line, in the environment and in YAML files."""
