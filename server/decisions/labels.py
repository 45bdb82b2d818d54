"""LabelTrie: the labels of one question as paths of token ids."""

from collections.abc import Iterable, Iterator, Sequence

Path = tuple[int, ...]


class SamePath(Exception):
    """Two labels have the same token ids, so that nothing tells them apart."""


class LabelNode:
    """The end of a path. label: the label that the path spells; None if it is only a part of labels.

    logprob: log probability of the path behind the question; None until it is known.
    """

    __slots__ = ("children", "label", "logprob", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.children: dict[int, LabelNode] = {}
        self.label: int | None = None
        self.logprob: float | None = None


class LabelTrie:
    """The paths of a question's labels. A label may have several paths, whose probabilities add up."""

    def __init__(self, labels: Sequence[Iterable[Path]]) -> None:
        """labels: the paths of each label, none of them empty. Raises SamePath if two labels share one."""
        self.num_labels = len(labels)
        self.max_length = 0
        self.root = LabelNode(())
        self.root.logprob = 0.0
        for label, paths in enumerate(labels):
            for path in paths:
                self._add(path, label)

    def _add(self, path: Path, label: int) -> None:
        assert path, "a label without tokens"
        node = self.root
        for position, token_id in enumerate(path, 1):
            if token_id not in node.children:
                node.children[token_id] = LabelNode(path[:position])
            node = node.children[token_id]
        if node.label not in (None, label):
            raise SamePath
        node.label = label
        self.max_length = max(self.max_length, len(path))

    def known(self) -> Iterator[LabelNode]:
        """Yield the nodes whose probability is known, parents first."""
        pending = [self.root]
        while pending:
            node = pending.pop()
            yield node
            pending += [child for child in node.children.values() if child.logprob is not None]
