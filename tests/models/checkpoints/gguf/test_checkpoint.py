"""GGUF reader: every kind of damage is one error that names the file; every type that gguf can dequantize is read."""

import errno
import mmap
import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from models.checkpoints.gguf.array import array_values
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.checkpoints.gguf.header import read_gguf_header
from models.errors import CheckpointError, ModelError, UnsupportedModelError
from tests.helpers.damaged_gguf import (
    ARRAY,
    DAMAGED,
    SOUND,
    STRING,
    UINT32,
    UNSUPPORTED,
    entry,
    file_bytes,
    tensor,
    text,
)


def error_of(tmp_path: Path, content: bytes) -> ModelError:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        GGUFCheckpoint([path])
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_file_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    make, reason = DAMAGED[kind]

    error = error_of(tmp_path, make())

    assert isinstance(error, CheckpointError)
    assert reason in str(error)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_sound_file_of_an_unsupported_kind_is_refused(tmp_path: Path, kind: str) -> None:
    make, reason = UNSUPPORTED[kind]

    error = error_of(tmp_path, make())

    assert isinstance(error, UnsupportedModelError)
    assert reason in str(error)


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for length in range(len(SOUND)):
        assert isinstance(error_of(tmp_path, SOUND[:length]), CheckpointError)


def test_file_with_random_damage_is_refused_or_read(tmp_path: Path) -> None:
    generator = random.Random(11)
    path = tmp_path / "damaged.gguf"
    strings = entry("b", ARRAY, struct.pack("<IQ", STRING, 2) + text("x") + text("y"))
    sound = file_bytes([strings], [tensor("t", (4, 2)), tensor("u", (8,), offset=32)], b"\1" * 64)
    num_refused = 0
    for _ in range(2000):
        damaged = bytearray(sound)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged) - 64)] = generator.choice((0, 1, 4, 8, 9, 127, 255))
        path.write_bytes(damaged)
        try:
            checkpoint = GGUFCheckpoint([path])
        except ModelError:
            num_refused += 1
        else:
            for stored in checkpoint.tensors.values():
                assert stored.read(torch.float32).shape == stored.shape

    assert 1000 < num_refused < 2000


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        GGUFCheckpoint([tmp_path / "absent.gguf"])


def test_a_file_that_does_not_fit_the_address_space_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read: Cannot allocate memory; raise .*ulimit -v"):
        read_gguf_header(path)


def test_metadata_of_every_type_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    integers = {"uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 2**32 - 1, "int32": -5}
    integers |= {"uint64": 2**64 - 1, "int64": -(2**63)}
    for name, value in integers.items():
        getattr(writer, f"add_{name}")(name, value)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("text", "größe 🦙")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("texts", ["a", "", "日本"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    metadata = dict(read_gguf_header(tmp_path / "m.gguf").metadata)

    expected = {
        "f32": 0.5,
        "f64": 0.1,
        "bool": True,
        "text": "größe 🦙",
    }
    arrays = {"numbers": [1, 2, 3], "texts": ["a", "", "日本"]}
    assert {key: array_values(metadata.pop(key)) for key in arrays} == arrays
    assert metadata == {"general.architecture": "llama", **integers, **expected}


def dequantizable() -> list[GGMLQuantizationType]:
    found = []
    for kind, (_, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError:
            continue
        found.append(kind)
    return found


@pytest.mark.parametrize("kind", dequantizable(), ids=lambda kind: kind.name)
def test_tensor_of_every_dequantizable_type_is_read(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    columns, rows = max(block_size, 32) * 2, 6
    row_bytes = columns // block_size * block_bytes
    # Bytes that are finite numbers whichever type reads them.
    packed = np.random.default_rng(5).integers(0, 60, (rows, row_bytes), dtype=np.uint8)
    path = tmp_path / "t.gguf"
    path.write_bytes(file_bytes([], [tensor("t", (columns, rows), kind)], packed.tobytes()))

    read = GGUFCheckpoint([path]).tensors["t"].read(torch.float32)

    assert read.shape == (rows, columns)
    expected = gguf.dequantize(packed, kind).reshape(rows, columns)
    assert np.array_equal(read.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        (GGMLQuantizationType.Q8_0, b"\x00\x7c"),
        (GGMLQuantizationType.IQ4_NL, b"\x01\xfc"),
        (GGMLQuantizationType.MXFP4, b"\xff"),
    ],
)
def test_scales_that_are_not_finite_are_named(tmp_path: Path, kind: GGMLQuantizationType, scale: bytes) -> None:
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    data = bytes(block_bytes) + scale + bytes(block_bytes - len(scale))
    path = tmp_path / "t.gguf"
    path.write_bytes(file_bytes([], [tensor("t", (32, 2), kind)], data))
    stored = GGUFCheckpoint([path]).tensors["t"]

    for read in (stored.quantized and stored.quantized.read, None if scale == b"\xff" else stored.read):
        if read is not None:
            with pytest.raises(CheckpointError, match=r"t\.gguf: 't' has scales that are not finite"):
                read(*[torch.float32] * (read is stored.read))


def test_double_precision_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.gguf"
    values = np.array([0.1, -2.0, 1e-30, 3.0])
    path.write_bytes(file_bytes([], [tensor("t", (4,), GGMLQuantizationType.F64)], values.tobytes()))

    assert GGUFCheckpoint([path]).tensors["t"].read(torch.float64).tolist() == values.tolist()


def test_large_tensor_is_dequantized_in_chunks_to_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(6).standard_normal((7, 64), dtype=np.float32)
    packed = gguf.quantize(values, GGMLQuantizationType.Q4_0)
    path = tmp_path / "t.gguf"
    path.write_bytes(file_bytes([], [tensor("t", (64, 7), GGMLQuantizationType.Q4_0)], packed.tobytes()))
    monkeypatch.setattr("models.checkpoints.gguf.checkpoint.dequantize_natively", lambda *_: None)
    monkeypatch.setattr("models.checkpoints.gguf.checkpoint._CHUNK_ELEMENTS", 130)  # two rows, and one left over

    read = GGUFCheckpoint([path]).tensors["t"].read(torch.float32)

    assert np.array_equal(read.numpy(), gguf.dequantize(packed, GGMLQuantizationType.Q4_0))


def test_quantized_tensor_can_be_read_as_it_is_packed(tmp_path: Path) -> None:
    packed = np.arange(6 * 34, dtype=np.uint8).reshape(6, 34)
    path = tmp_path / "t.gguf"
    entries = [tensor("t", (32, 3, 2), GGMLQuantizationType.Q8_0), tensor("plain", (1,), offset=224)]
    path.write_bytes(file_bytes([], entries, packed.tobytes() + b"\0" * 32))

    tensors = GGUFCheckpoint([path]).tensors

    assert tensors["t"].read_blocks is not None
    assert np.array_equal(tensors["t"].read_blocks().numpy(), packed)
    assert tensors["plain"].read_blocks is None


def part(number: int, count: int, name: str, total: int) -> bytes:
    entries = [
        entry("split.no", UINT32, struct.pack("<I", number)),
        entry("split.count", UINT32, struct.pack("<I", count)),
        entry("split.tensors.count", UINT32, struct.pack("<I", total)),
    ]
    return file_bytes(entries, [tensor(name, (1,))], b"\0" * 32)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([part(0, 2, "a", 2)], "part 1 of 2, but its folder has 1"),
        ([part(1, 2, "b", 2), part(0, 2, "a", 2)], "part 1 of 2 by its name"),
        ([part(0, 2, "a", 2), part(1, 3, "b", 2)], "part 2 of 2 by its name"),
        ([part(0, 2, "a", 2), part(1, 2, "a", 2)], "'a' is in"),
        ([part(0, 2, "a", 3), part(1, 2, "b", 3)], "2 of 3 tensors"),
    ],
)
def test_parts_that_do_not_make_a_whole_are_refused(tmp_path: Path, parts: list[bytes], reason: str) -> None:
    paths = []
    for index, content in enumerate(parts):
        paths.append(tmp_path / f"{index}.gguf")
        paths[-1].write_bytes(content)

    with pytest.raises(CheckpointError, match=reason):
        GGUFCheckpoint(paths)
