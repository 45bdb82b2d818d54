"""Digests of KV blocks."""

import pytest

from engine.scheduling.kv.prefixes import block_digest, root_digest

pytestmark = pytest.mark.fast


def test_digest_depends_on_every_token_and_their_order() -> None:
    root = root_digest("")
    assert block_digest(root, [1, 2, 3]) == block_digest(root, [1, 2, 3])
    assert len({block_digest(root, tokens) for tokens in ([1, 2, 3], [3, 2, 1], [1, 2, 4], [1, 2])}) == 4


def test_digest_depends_on_the_whole_prefix() -> None:
    root = root_digest("")
    first, other = block_digest(root, [1, 2]), block_digest(root, [9, 9])
    assert block_digest(first, [5, 6]) != block_digest(other, [5, 6])


def test_salts_part_equal_prompts() -> None:
    assert block_digest(root_digest("a"), [1, 2]) != block_digest(root_digest("b"), [1, 2])


def test_digest_distinguishes_tokens_that_share_bytes() -> None:
    root = root_digest("")
    assert block_digest(root, [1, 0]) != block_digest(root, [256, 0])
    assert block_digest(root, [2**31]) != block_digest(root, [-(2**31)])


def test_a_salt_cannot_imitate_a_block() -> None:
    """A salt with the bytes of a parent and its tokens would otherwise lead into another salt's prefix."""
    parent = b"0123456789abcdef"
    salt = (parent + (7).to_bytes(8, "little")).decode()
    assert root_digest(salt) != block_digest(parent, [7])


def test_digest_has_128_bits() -> None:
    assert len(root_digest("")) == len(block_digest(root_digest(""), [1])) == 16
