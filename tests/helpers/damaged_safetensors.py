"""safetensors files by hand: a sound one, and malformed ones of every kind."""

import json
import struct


def raw_file(header: object, data: bytes, *, length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def f32(begin: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


SOUND = raw_file({"a": f32(0, 8, [2])}, b"\1" * 8)
DAMAGED = {
    "empty": b"",
    "header length only": SOUND[:8],
    "cut in the header": SOUND[:20],
    "cut in the data": SOUND[:-1],
    "more data than described": SOUND + b"\0",
    "header longer than the file": raw_file({}, b"", length=10_000),
    "header of 2**60 bytes": raw_file({}, b"", length=2**60),
    "header that is no JSON": raw_file(b"{not json", b""),
    "shape that does not fit its bytes": raw_file({"a": f32(0, 8, [3])}, b"\0" * 8),
    "shape that overflows": raw_file({"a": f32(0, 8, [2**40, 2**40])}, b"\0" * 8),
    "tensors that overlap": raw_file({"a": f32(0, 8, [2]), "b": f32(4, 12, [2])}, b"\0" * 12),
    "hole between tensors": raw_file({"a": f32(0, 8, [2]), "b": f32(12, 20, [2])}, b"\0" * 20),
    "offsets beyond the file": raw_file({"a": f32(0, 800, [200])}, b"\0" * 8),
    "offsets that run backward": raw_file({"a": f32(8, 0, [2])}, b"\0" * 8),
    "repeated name": raw_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b"\0" * 8,
    ),
    "unknown dtype": raw_file({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "no tensors": raw_file({}, b""),
    "header that is not UTF-8": raw_file(b'{"\xff\xfe": {}}', b""),
    "header that is a list": raw_file([], b""),
    "header nested deeply": raw_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "negative size": raw_file({"a": f32(0, 8, [-2])}, b"\0" * 8),
    "size that is a fraction": raw_file(b'{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}', b"\0" * 8),
    "size beyond 64 bits": raw_file(b'{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}', b""),
    "no dtype": raw_file({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "no shape": raw_file({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8),
    "no offsets": raw_file({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "metadata that is no object": raw_file({"__metadata__": [1], "a": f32(0, 8, [2])}, b"\0" * 8),
    "metadata with numbers": raw_file({"__metadata__": {"a": 1}, "a": f32(0, 8, [2])}, b"\0" * 8),
    "header of 17 MiB": raw_file(b'{"__metadata__":{"a":"' + b"x" * (17 << 20) + b'"}}', b""),
}
