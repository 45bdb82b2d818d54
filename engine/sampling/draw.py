"""Counter-based random numbers, which depend only on a request's seed and a token's position.

So a token is the same whether its request ran alone, in a batch, in chunks, or again after a preemption.
"""

import enum
import hashlib
import struct

_KEY = struct.Struct("<qq")


class Purpose(enum.Enum):
    """The use of a random number. Numbers for different purposes at one position are independent."""

    SAMPLE = b""
    PROPOSE = b"propose"  # a draft model's token
    ACCEPT = b"accept"  # whether it is accepted
    XTC = b"xtc"  # whether top choices are excluded


def uniform(seed: int, position: int, purpose: Purpose = Purpose.SAMPLE) -> float:
    """Return a random number in [0, 1) with 53 bits: a pure function of the arguments, by blake2b hashing."""
    digest = hashlib.blake2b(_KEY.pack(seed, position), digest_size=8, person=purpose.value).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
