"""Protocol-independent conversations: every protocol's chat requests are translated to them, and prompts rendered."""
