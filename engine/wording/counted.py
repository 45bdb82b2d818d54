"""counted: a number with its noun, for messages that people read."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """'1 file' or '2,000 files'. plural: of a noun that does not take an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
