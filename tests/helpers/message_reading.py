"""read: what a MessageReader makes of a text, however it is cut."""

from server.reasoning.message_reader import MessageReader


def read(reader: MessageReader, deltas: list[str]) -> tuple[str, str]:
    """Return the whole reasoning and the whole content, after checking the reader at each delta."""
    pieces = []
    for delta in deltas:
        pieces.append(reader.push(delta))
        reader.check()
    pieces.append(reader.finish())
    return "".join(piece for piece, _ in pieces), "".join(piece for _, piece in pieces)


def is_cut_anywhere(make: "type[MessageReader]", deltas: list[str], *, is_open: bool) -> bool:
    """Return whether a text cut into `deltas`, and into letters, reads as the whole text does."""
    text = "".join(deltas)
    return (
        read(make(is_open=is_open), [text])
        == read(make(is_open=is_open), deltas)
        == read(make(is_open=is_open), list(text))
    )
