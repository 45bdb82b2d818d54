"""The ways of writing tool calls that are known by name, a file each; server/tools/registry.py lists them."""
