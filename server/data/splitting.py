"""Mixture of files by weights, and the split into training and validation lines; both by seed."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from server.data.preparation import KeptLine


def mixed(lines: Sequence[int], files: Sequence[int], weights: Sequence[float], keys: Sequence[bytes]) -> list[int]:
    """Return as many of the lines as the weights allow without repeating one, with the files evenly mixed.

    lines: indices into `files`, which has the file of each line, and `keys`, by which lines are drawn.
    """
    counts = Counter(files[line] for line in lines)
    scale = min(counts[file] / weight for file, weight in enumerate(weights) if weight)
    chosen: list[tuple[float, int, int]] = []
    for file, weight in enumerate(weights):
        own = [line for line in lines if files[line] == file]
        drawn = sorted(sorted(own, key=lambda line: keys[line])[: round(scale * weight)])
        chosen += [((rank + 0.5) / len(drawn), file, line) for rank, line in enumerate(drawn)]
    return [line for _, _, line in sorted(chosen)]


def validation_lines(lines: Sequence[int], groups: Sequence[int], share: float, keys: Sequence[bytes]) -> set[int]:
    """Draw whole groups of duplicates for validation, at most `share` of the lines, and at least one group."""
    members: dict[int, list[int]] = {}
    for line in lines:
        members.setdefault(groups[line], []).append(line)
    left = round(share * len(lines))
    drawn: set[int] = set()
    for group in sorted(members, key=lambda group: keys[group]):
        if len(members[group]) <= left:
            left -= len(members[group])
            drawn.update(members[group])
    return drawn


def draw_keys(lines: Sequence[KeptLine], seed: int) -> list[bytes]:
    """Return a digest of each line by which lines are drawn: the same for the same seed, whatever their order."""
    start = str(seed).encode()
    return [hashlib.blake2b(line.data, digest_size=8, key=start[:64]).digest() for line in lines]
