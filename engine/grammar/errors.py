"""What can go wrong with a grammar."""


class GrammarError(Exception):
    """A grammar failed while it was followed; the sequence cannot go on."""
