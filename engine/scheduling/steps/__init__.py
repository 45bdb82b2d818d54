"""One step: its token budget, the division of the budget between sequences, and statistics."""
