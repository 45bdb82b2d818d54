"""LabelWalk: finds the probabilities of a question's labels by walking the trie of their tokens.

The probability of a path is the product of those of its tokens. A label's mass is the sum over its paths. If a path
begins another label's ("low", "low-medium"), its mass is what the longer one leaves: the model may go on in any other
way. A path is followed only while that can still change a probability by more than MAX_ERROR.
"""

import math
from collections.abc import Sequence

from engine.protocol.scoring import LabelMasses
from engine.scoring.labels import LabelNode, LabelTrie

MAX_ERROR = 1e-6  # of a label's probability


class LabelWalk:
    """The walk of one trie, in rounds: read the rows of all due nodes, and expand each of them."""

    def __init__(self, trie: LabelTrie) -> None:
        self._trie = trie
        self._open = [trie.root]  # nodes that are known and whose children are not

    def due(self) -> list[LabelNode]:
        """Return the open nodes to expand now; none when the walk is over.

        Left alone, the open nodes together may change a probability by at most their share of the labels' mass. Each
        node that exceeds MAX_ERROR even of the largest possible mass must be expanded sooner or later, so all of them
        are expanded together. If there are none, the likeliest are, until the rest may be left.
        """
        scale = self._scale()
        nodes = sorted(self._open, key=_known, reverse=True)
        weights = [math.exp(_known(node) - scale) for node in nodes]
        certain = sum(math.exp(_known(node) - scale) for node in _next_labels(self._trie.root))
        rest = sum(weights)
        if rest <= MAX_ERROR * certain:
            return []
        needed = [node for node, weight in zip(nodes, weights, strict=True) if weight > MAX_ERROR * (certain + rest)]
        if needed:
            return needed
        num = 0
        while rest > MAX_ERROR * certain and num < len(nodes):
            rest -= weights[num]
            num += 1
        return nodes[:num]

    def expand(self, node: LabelNode, logprobs: Sequence[float]) -> None:
        """Take the log probabilities of the node's children."""
        self._open.remove(node)
        for child, logprob in zip(node.children.values(), logprobs, strict=True):
            child.logprob = _known(node) + logprob
            if child.children:
                self._open.append(child)

    def masses(self) -> LabelMasses:
        """Return the labels' probabilities, once no node is due."""
        scale = self._scale()
        masses = [0.0] * self._trie.num_labels
        for node in self._trie.known():
            if node.label is not None:
                longer = sum(math.exp(_known(each) - scale) for each in _next_labels(node))
                masses[node.label] += max(0.0, math.exp(_known(node) - scale) - longer)
        total = sum(masses)
        probabilities = [mass / total for mass in masses] if total else masses
        return LabelMasses(probabilities, total * math.exp(scale))

    def _scale(self) -> float:
        """Return the log probability of the likeliest label or open node, so that none underflows beside the others."""
        known = [_known(node) for node in (*self._open, *_next_labels(self._trie.root))]
        return max((each for each in known if each != -math.inf), default=0.0)


def _next_labels(node: LabelNode) -> list[LabelNode]:
    """Return the known ends of labels below the node, without those below another end."""
    found = []
    pending = [child for child in node.children.values() if child.logprob is not None]
    while pending:
        each = pending.pop()
        if each.label is not None:
            found.append(each)
        else:
            pending += [child for child in each.children.values() if child.logprob is not None]
    return found


def _known(node: LabelNode) -> float:
    assert node.logprob is not None
    return node.logprob
