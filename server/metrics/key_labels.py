"""KeyLabels: names of keys as labels, bounded in number."""

MAX_KEY_LABELS = 100
OTHER = "other"


class KeyLabels:
    """The first MAX_KEY_LABELS names that come are their own labels for good, and all later ones OTHER."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= MAX_KEY_LABELS:
                return OTHER
            self._known.add(name)
        return name
