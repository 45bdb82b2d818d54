"""LabelTrie: the labels of one question as paths of token ids."""

from collections.abc import Iterable, Iterator, Sequence

from engine.protocol.scoring import Path


class LabelNode:
    """The end of a path. label: the label that the path spells; None if it is only a part of labels.

    logprob: log probability of the path behind the question; None until it is known.
    """

    __slots__ = ("_length", "_whole", "children", "label", "logprob")

    def __init__(self, whole: Path, length: int) -> None:
        """whole: a path through the node. length: tokens of the node's own path, with which it begins."""
        self._whole, self._length = whole, length  # a slice of its own in each node would take quadratic memory
        self.children: dict[int, LabelNode] = {}
        self.label: int | None = None
        self.logprob: float | None = None

    @property
    def path(self) -> Path:
        return self._whole[: self._length]


class LabelTrie:
    """The paths of a question's labels. A label may have several paths, whose probabilities add up."""

    def __init__(self, labels: Sequence[Iterable[Path]]) -> None:
        """labels: the paths of each label, none of them empty or of two labels."""
        self.num_labels = len(labels)
        self.root = LabelNode((), 0)
        self.root.logprob = 0.0
        for label, paths in enumerate(labels):
            for path in paths:
                self._add(path, label)

    def _add(self, path: Path, label: int) -> None:
        assert path, "a label without tokens"
        node = self.root
        for position, token_id in enumerate(path, 1):
            if token_id not in node.children:
                node.children[token_id] = LabelNode(path, position)
            node = node.children[token_id]
        assert node.label in (None, label), "two labels with the same tokens"
        node.label = label

    def known(self) -> Iterator[LabelNode]:
        """Yield the nodes whose probability is known, parents first."""
        pending = [self.root]
        while pending:
            node = pending.pop()
            yield node
            pending += [child for child in node.children.values() if child.logprob is not None]
