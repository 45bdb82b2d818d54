"""GGUF files by hand: sound ones, malformed ones of every kind, and what a reader must say of each."""

import struct
from collections.abc import Callable

from gguf import GGMLQuantizationType

UINT32, FLOAT32, STRING, ARRAY, UINT64 = 4, 6, 8, 9, 10
F32 = 0


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def tensor(name: str, dims: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file_bytes(
    entries: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    num_tensors, num_entries = counts or (len(tensors), len(entries))
    header = magic + struct.pack("<IQQ", version, num_tensors, num_entries) + b"".join(entries) + b"".join(tensors)
    return header + b"\0" * (-len(header) % 32) + data


SOUND = file_bytes([entry("a", UINT32, struct.pack("<I", 7))], [tensor("t", (4, 2))], b"\1" * 32)


def truncated_to(num_bytes: int) -> Callable[[], bytes]:
    return lambda: SOUND[:num_bytes]


DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "0 bytes"),
    "only a magic number": (truncated_to(4), "4 bytes"),
    "other magic number": (lambda: file_bytes([], [], magic=b"GGML"), "not a GGUF file"),
    "cut in a key": (truncated_to(26), "can hold: it is truncated"),
    "cut in a tensor's entry": (truncated_to(60), "ends within"),
    "cut in the data": (truncated_to(len(SOUND) - 1), "truncated"),
    "too many entries": (lambda: file_bytes([], [], counts=(0, 2**60)), "claims"),
    "too many tensors": (lambda: file_bytes([], [], counts=(2**60, 0)), "claims"),
    "key longer than the file": (lambda: file_bytes([struct.pack("<Q", 2**62)], []) + b"\0" * 64, "ends within"),
    "string longer than the file": (
        lambda: file_bytes([entry("a", STRING, struct.pack("<Q", 2**63))], []),
        "ends within",
    ),
    "array longer than the file": (
        lambda: file_bytes([entry("a", ARRAY, struct.pack("<IQ", UINT64, 2**61))], []),
        "ends within",
    ),
    "array of strings longer than the file": (
        lambda: file_bytes([entry("a", ARRAY, struct.pack("<IQ", STRING, 2**61))], []),
        "claims",
    ),
    "array of arrays": (
        lambda: file_bytes([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))], []) + b"\0" * 64,
        "unknown type",
    ),
    "unknown value type": (lambda: file_bytes([entry("a", 99, b"\0" * 8)], []), "unknown type"),
    "key that is not UTF-8": (
        lambda: file_bytes([struct.pack("<Q", 1) + b"\xff" + struct.pack("<II", UINT32, 0)], []),
        "UTF-8",
    ),
    "repeated key": (lambda: file_bytes([entry("a", UINT32, b"\0" * 4)] * 2, []), "repeats"),
    "repeated tensor": (lambda: file_bytes([], [tensor("t", (1,))] * 2, b"\0" * 32), "repeats"),
    "no dimensions": (lambda: file_bytes([], [tensor("t", ())], b"\0" * 32), "dimensions"),
    "too many dimensions": (lambda: file_bytes([], [tensor("t", (1,) * 5)], b"\0" * 32), "dimensions"),
    "size 0": (lambda: file_bytes([], [tensor("t", (4, 0))], b"\0" * 32), "shape"),
    "sizes whose product overflows": (
        lambda: file_bytes([], [tensor("t", (2**32, 2**32, 2**32))], b"\0" * 32),
        "truncated",
    ),
    "offset beyond the file": (lambda: file_bytes([], [tensor("t", (1,), offset=2**40)], b"\0" * 32), "truncated"),
    "offset that is not aligned": (lambda: file_bytes([], [tensor("t", (1,), offset=1)], b"\0" * 32), "damaged"),
    "tensors at one offset": (
        lambda: file_bytes([], [tensor("t", (8,)), tensor("u", (8,))], b"\0" * 64),
        "'u' at byte 96, but after the tensor before it, it must be at 128",
    ),
    "tensors that overlap": (
        lambda: file_bytes([], [tensor("t", (16,)), tensor("u", (8,), offset=32)], b"\0" * 96),
        "must be at",
    ),
    "hole between tensors": (
        lambda: file_bytes([], [tensor("t", (8,)), tensor("u", (8,), offset=64)], b"\0" * 96),
        "must be at",
    ),
    "tensors in another order than the table's": (
        lambda: file_bytes([], [tensor("t", (8,), offset=32), tensor("u", (8,))], b"\0" * 64),
        "must be at",
    ),
    "offsets for another alignment": (
        lambda: file_bytes(
            [entry("general.alignment", UINT32, struct.pack("<I", 64))],
            [tensor("t", (8,)), tensor("u", (8,), offset=32)],
            b"\0" * 128,
        ),
        "must be at",
    ),
    "tensor name of 64 bytes": (lambda: file_bytes([], [tensor("t" * 64, (1,))], b"\0" * 32), "64 bytes"),
    "key of 2,000 bytes": (lambda: file_bytes([entry("k" * 2000, UINT32, b"\0" * 4)], []), "2000 bytes"),
    "more tensors than any model has": (
        lambda: file_bytes([], [tensor("t", (1,))], b"\0" * 40 * 2**16, counts=(2**16 + 1, 0)),
        "no model has more",
    ),
    "more texts than any vocabulary has": (
        lambda: file_bytes([entry("a", ARRAY, struct.pack("<IQ", STRING, 2**20 + 1))], [], b"\0" * (2**23 + 8)),
        "no model has more",
    ),
    "text of 49 MiB": (
        lambda: file_bytes([entry("a", STRING, struct.pack("<Q", 49 << 20))], [], b"\0" * (49 << 20)),
        "no model has",
    ),
    "row that is not a multiple of a block": (
        lambda: file_bytes([], [tensor("t", (31,), GGMLQuantizationType.Q8_0)], b"\0" * 64),
        "not a multiple",
    ),
    "alignment 0": (
        lambda: file_bytes([entry("general.alignment", UINT32, struct.pack("<I", 0))], []),
        "power of two",
    ),
    "alignment 13": (
        lambda: file_bytes([entry("general.alignment", UINT32, struct.pack("<I", 13))], []),
        "power of two",
    ),
    "alignment that is a float": (
        lambda: file_bytes([entry("general.alignment", FLOAT32, struct.pack("<f", 32.0))], []),
        "power of two",
    ),
}


def described(*more: bytes) -> list[bytes]:
    """Metadata of a Llama of one layer, and `more`."""
    sizes = {"embedding_length": 64, "block_count": 1, "feed_forward_length": 64, "context_length": 64}
    sizes |= {"attention.head_count": 1}
    entries = [entry(f"llama.{name}", UINT32, struct.pack("<I", value)) for name, value in sizes.items()]
    epsilon = entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5))
    return [entry("general.architecture", STRING, text("llama")), *entries, epsilon, *more]


# Files that are sound to the eye of the header's reader, and that would take gigabytes if arrays became lists; zeros of
# the second number's bytes follow what the function makes, and take no space on the disk.
LARGE: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "array of 30 million numbers": (
        lambda: file_bytes(described(entry("a", ARRAY, struct.pack("<IQ", FLOAT32, 30_000_000))), []),
        120_000_000,
        "token_embd.weight",
    ),
    "number that is 30 million of them": (
        lambda: file_bytes(
            described(entry("llama.rope.freq_base", ARRAY, struct.pack("<IQ", FLOAT32, 30_000_000))),
            [],
        ),
        120_000_000,
        "token_embd.weight",
    ),
    "30 million rotary factors": (
        lambda: file_bytes(
            described(),
            [tensor("token_embd.weight", (64, 1)), tensor("rope_freqs.weight", (30_000_000,), offset=256)],
        ),
        256 + 120_000_000,
        "rope_freqs.weight has shape [30000000]",
    ),
}
UNSUPPORTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "version 1": (lambda: file_bytes([], [], version=1), "version 1"),
    "version of the future": (lambda: file_bytes([], [], version=9), "version 9"),
    "big-endian": (lambda: file_bytes([], [], version=0x03000000), "big-endian"),
    "unknown tensor type": (lambda: file_bytes([], [tensor("t", (1,), 200)], b"\0" * 32), "type 200"),
    "BitNet's own tensor type": (
        lambda: file_bytes([], [tensor("t", (32,), 36)], b"\0" * 32),
        "type 36, I2_S of bitnet.cpp, which is not supported; use another quantization, such as TQ2_0",
    ),
    "type that cannot be dequantized": (
        lambda: file_bytes([], [tensor("t", (256,), GGMLQuantizationType.Q8_K)], b"\0" * 512),
        "Q8_K, which cannot be dequantized; use a version of the model in other types: F32, F16, Q4_0",
    ),
    "integers": (
        lambda: file_bytes([], [tensor("t", (8,), GGMLQuantizationType.I32)], b"\0" * 32),
        "I32, which cannot",
    ),
}
