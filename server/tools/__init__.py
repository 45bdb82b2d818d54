"""Tool calls: the format that a model's chat template shows, parsers that read calls, grammars that enforce them."""
