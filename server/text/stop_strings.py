"""Stop strings: an incremental search for them, and the text of one choice up to the first."""

from collections.abc import Sequence

from server.text.detokenizer import Detokenizer


class StopStringMatcher:
    """Finds the first stop string in a text that arrives in deltas, however the text is cut into deltas.

    If one character completes several stop strings, the longest is found. Text that may be the beginning of a stop
    string stays pending, at most one character less than the longest one.

    Each stop string has a Knuth-Morris-Pratt automaton, so the cost of a character does not depend on its length.
    """

    def __init__(self, stops: Sequence[str], *, include_in_output: bool = False) -> None:
        """stops: the stop strings; none may be empty."""
        assert all(stops)
        self._stops = list(stops)
        self._borders = [_borders(stop) for stop in self._stops]
        self._matched = [0] * len(self._stops)  # characters of each stop string at the end of the text
        self._pending = ""
        self._include_in_output = include_in_output
        self.found: str | None = None  # the stop string that ended the text; nothing may be pushed after that

    def push(self, delta: str) -> str:
        """Return the text that can be sent now. The text after a stop string is dropped."""
        assert self.found is None
        if not self._stops:
            return delta
        text = self._pending + delta
        for position in range(len(self._pending), len(text)):
            self._advance(text[position])
            if self.found is not None:
                end = position + 1
                self._pending = ""
                return text[: end if self._include_in_output else end - len(self.found)]
        sent = len(text) - max(self._matched)
        self._pending = text[sent:]
        return text[:sent]

    def finish(self) -> str:
        """Return the pending text of a text that has ended without a stop string."""
        pending, self._pending = self._pending, ""
        return pending

    def _advance(self, character: str) -> None:
        for index, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            length = self._matched[index]
            while length and stop[length] != character:
                length = borders[length - 1]
            if stop[length] == character:
                length += 1
            if length == len(stop):
                if self.found is None or len(stop) > len(self.found):
                    self.found = stop
                length = borders[length - 1]
            self._matched[index] = length


def _borders(text: str) -> list[int]:
    """Return, for each prefix of `text`, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for i in range(1, len(text)):
        while length and text[i] != text[length]:
            length = borders[length - 1]
        if text[i] == text[length]:
            length += 1
        borders[i] = length
    return borders


class ChoiceText:
    """Converts the token ids of one choice to text, up to a stop string."""

    def __init__(self, detokenizer: Detokenizer, matcher: StopStringMatcher) -> None:
        self._detokenizer = detokenizer
        self._matcher = matcher

    def push(self, ids: Sequence[int], *, is_last: bool = False) -> tuple[str, int, str | None]:
        """Return the text that `ids` release, the number of ids up to its end, and the stop string that ended it, or
        None.

        is_last: no id will follow, so nothing stays pending. Must not be called after a stop string or the last ids.
        """
        released = []
        for count, token_id in enumerate(ids, start=1):
            released.append(self._matcher.push(self._detokenizer.push_one(token_id)))
            if self._matcher.found is not None:
                return "".join(released), count, self._matcher.found
        if is_last:
            released.append(self._matcher.push(self._detokenizer.finish()))
            if self._matcher.found is None:
                released.append(self._matcher.finish())
        return "".join(released), len(ids), self._matcher.found
