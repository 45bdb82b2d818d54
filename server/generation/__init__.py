"""The generation of one request: prompts are submitted as choices, whose outputs become text deltas and are counted."""
