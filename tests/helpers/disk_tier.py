"""Blocks for a DiskTier, and waiting for its threads."""

import random
import threading

from engine.kv_tiers.block_file import HEADER_BYTES
from engine.kv_tiers.disk import DiskTier
from engine.kv_tiers.tier import BlockTier

BLOCK_BYTES = 1000
FILE_BYTES = HEADER_BYTES + BLOCK_BYTES
ONE, OTHER = "1" * 32, "2" * 32


def key_of(number: int) -> bytes:
    return bytes([number]) * 16 + b"\0\0"


def content_of(key: bytes) -> bytes:
    return random.Random(key).randbytes(BLOCK_BYTES)


def blocks(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(key_of(number), content_of(key_of(number))) for number in numbers]


def settle(tier: DiskTier) -> None:
    """Wait until the tier has carried out all writes."""
    done = threading.Event()
    tier._writes.put(done.set)
    assert done.wait(30)


def stored(tier: DiskTier, numbers: range) -> list[int]:
    found = tier.contains([key_of(number) for number in numbers])
    return [number for number, has in zip(numbers, found, strict=True) if has]


def read(tier: BlockTier, *numbers: int) -> list[bytes | None]:
    return tier.read([key_of(number) for number in numbers]).result(30)
