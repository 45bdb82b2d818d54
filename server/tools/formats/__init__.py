"""Tool formats that --tool-call-parser can name, one file each; server/tools/registry.py lists them."""
