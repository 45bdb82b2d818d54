"""The sampler's limits and penalties as their definitions say, in plain loops over one row: for tests to compare."""

import math
from collections import abc

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def sigma_survivors(logits: np.ndarray, n: float) -> set[int]:
    finite = [x for x in logits.tolist() if x > -math.inf]
    mean = sum(finite) / len(finite)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in finite) / len(finite))
    return {i for i, x in enumerate(logits.tolist()) if x >= max(finite) - n * deviation}


def typical_survivors(probs: np.ndarray, mass: float) -> set[int]:
    """The fewest tokens of that mass, by how far their surprise is from the entropy."""
    entropy = -sum(p * math.log(p) for p in probs.tolist() if p > 0)
    distance = {i: abs(-math.log(p) - entropy) for i, p in enumerate(probs.tolist()) if p > 0}
    survivors: set[int] = set()
    for token_id in sorted(distance, key=lambda i: distance[i]):
        if sum(probs[i] for i in survivors) >= mass:
            break
        survivors.add(token_id)
    return survivors


def xtc_survivors(probs: np.ndarray, threshold: float) -> set[int]:
    """Survivors among tokens whose probabilities differ."""
    top = [i for i, p in enumerate(probs.tolist()) if p >= threshold]
    survivors = {i for i, p in enumerate(probs.tolist()) if p > 0}
    return survivors - set(sorted(top, key=lambda i: probs[i])[1:])


def dry_penalties(
    tokens: abc.Sequence[int],
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
    window: int,
    breakers: abc.Sequence[abc.Sequence[int]] = (),
) -> dict[int, float]:
    """The penalty of each token. Every token is tried as the next one, and every earlier place as the beginning of
    the repetition that it continues."""
    recent = list(tokens)[-window:]
    after_breaker = _after_last_breaker(recent, breakers)
    penalties = {}
    for token_id in set(recent[1:]) - {breaker[0] for breaker in breakers if len(breaker) == 1}:
        lengths = [
            _common_suffix(recent[:place], recent) for place in range(1, len(recent)) if recent[place] == token_id
        ]
        longest = min(max(lengths), after_breaker)
        if len(recent) > allowed_length and longest >= allowed_length:
            penalties[token_id] = multiplier * base ** (longest - allowed_length)
    return penalties


def _common_suffix(first: list[int], second: list[int]) -> int:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return length


def _after_last_breaker(tokens: list[int], breakers: abc.Sequence[abc.Sequence[int]]) -> int:
    """Tokens after the breaker that begins last; of several that begin there, the longest."""
    for start in reversed(range(len(tokens))):
        found = [len(b) for b in breakers if tokens[start : start + len(b)] == list(b)]
        if found:
            return len(tokens) - start - max(found)
    return len(tokens)


def mirostat_survivors(probs: np.ndarray, version: int, mu: float) -> list[int]:
    """Survivors, if probabilities differ; the likeliest token always survives, and tokens with 0 never."""
    order = [i for i in np.argsort(-probs).tolist() if probs[i] > 0]
    if version == 2:
        return [i for i in order if -math.log2(probs[i]) <= mu] or order[:1]
    ranked = [probs[i] for i in order[:100]]
    t = [math.log((i + 2) / (i + 1)) for i in range(len(ranked) - 1)]
    b = [math.log(ranked[i] / ranked[i + 1]) for i in range(len(ranked) - 1)]
    s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
    epsilon = s - 1
    k = (epsilon * 2**mu / (1 - len(probs) ** -epsilon)) ** (1 / s)
    return order[: max(1, int(k))]


def mirostat_surprise(probs: np.ndarray, survivors: list[int], token_id: int, version: int) -> float:
    total = probs[survivors].sum() if version == 2 else 1.0
    return -math.log2(probs[token_id] / total)
