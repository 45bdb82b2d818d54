"""Digests of KV blocks."""

import pytest

from engine.scheduling.kv.prefixes import root_digest, unit_digest

pytestmark = pytest.mark.fast


def test_digest_depends_on_every_token_and_their_order() -> None:
    root = root_digest("")
    assert unit_digest(root, [1, 2, 3]) == unit_digest(root, [1, 2, 3])
    assert len({unit_digest(root, tokens) for tokens in ([1, 2, 3], [3, 2, 1], [1, 2, 4], [1, 2])}) == 4


def test_digest_depends_on_the_whole_prefix() -> None:
    root = root_digest("")
    first, other = unit_digest(root, [1, 2]), unit_digest(root, [9, 9])
    assert unit_digest(first, [5, 6]) != unit_digest(other, [5, 6])


def test_salts_part_equal_prompts() -> None:
    assert unit_digest(root_digest("a"), [1, 2]) != unit_digest(root_digest("b"), [1, 2])


def test_digest_distinguishes_tokens_that_share_bytes() -> None:
    root = root_digest("")
    assert unit_digest(root, [1, 0]) != unit_digest(root, [256, 0])
    assert unit_digest(root, [2**31]) != unit_digest(root, [-(2**31)])


def test_a_salt_cannot_imitate_a_block() -> None:
    """A salt with the bytes of a parent and its tokens would otherwise lead into another salt's prefix."""
    parent = b"0123456789abcdef"
    salt = (parent + (7).to_bytes(8, "little")).decode()
    assert root_digest(salt) != unit_digest(parent, [7])


def test_digest_has_128_bits() -> None:
    assert len(root_digest("")) == len(unit_digest(root_digest(""), [1])) == 16
