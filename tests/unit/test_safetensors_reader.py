"""safetensors reader: single files, shards, and every kind of damage as one error that names the file."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.errors import CheckpointError, ModelError, UnsupportedModelError

INDEX = "model.safetensors.index.json"


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
    "offsets that run backwards": raw_file({"a": f32(8, 0, [2])}, b"\0" * 8),
    "repeated name": raw_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b"\0" * 8,
    ),
    "unknown dtype": raw_file({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "no tensors": raw_file({}, b""),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[kind])

    with pytest.raises(CheckpointError, match=str(tmp_path)):
        SafetensorsCheckpoint(tmp_path)


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for length in range(len(SOUND)):
        (tmp_path / "model.safetensors").write_bytes(SOUND[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_single_file_is_described_and_read(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    save_file({"a": values}, tmp_path / "model.safetensors")

    checkpoint = SafetensorsCheckpoint(tmp_path)

    stored = checkpoint.tensors["a"]
    assert checkpoint.dtype == dtype
    assert (stored.shape, stored.num_bytes) == ((3, 5), 15 * dtype.itemsize)
    assert torch.equal(stored.read(torch.float32), values.to(torch.float32))


def test_stored_dtype_is_that_of_most_bytes(tmp_path: Path) -> None:
    tensors = {"norm": torch.ones(4), "norm2": torch.ones(4), "matrix": torch.ones(8, 8, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")

    assert SafetensorsCheckpoint(tmp_path).dtype == torch.bfloat16


def test_tensors_that_are_no_weights_are_listed_but_not_read(tmp_path: Path) -> None:
    tensors = {"mask": torch.ones(40, dtype=torch.uint8), "a": torch.ones(4, dtype=torch.float16)}
    save_file(tensors, tmp_path / "model.safetensors")

    checkpoint = SafetensorsCheckpoint(tmp_path)

    assert checkpoint.tensors["mask"].read is None
    assert checkpoint.tensors["mask"].format == "U8"
    assert checkpoint.dtype == torch.float16


def test_single_file_comes_before_an_index(tmp_path: Path) -> None:
    write_shards(tmp_path, {"1.safetensors": {"a": torch.ones(2)}})
    save_file({"b": torch.ones(1)}, tmp_path / "model.safetensors")

    assert set(SafetensorsCheckpoint(tmp_path).tensors) == {"b"}


# --- shards ----------------------------------------------------------------------------------------------------------


def write_shards(folder: Path, shards: dict[str, dict[str, torch.Tensor]], index: object = None) -> None:
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map} if index is None else index))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    write_shards(tmp_path, {"1.safetensors": {"a": torch.ones(2)}, "2.safetensors": {"b": torch.zeros(3)}})

    tensors = SafetensorsCheckpoint(tmp_path).tensors

    assert {name: stored.file.name for name, stored in tensors.items()} == {"a": "1.safetensors", "b": "2.safetensors"}


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, {"1.safetensors": {"a": torch.ones(2)}, "2.safetensors": {"b": torch.zeros(3)}})
    (tmp_path / "2.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"2\.safetensors is listed"):
        SafetensorsCheckpoint(tmp_path)


def test_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}
    write_shards(tmp_path, {"1.safetensors": {"a": torch.ones(2)}}, index)

    with pytest.raises(CheckpointError, match=r"1\.safetensors lacks tensor 'b'"):
        SafetensorsCheckpoint(tmp_path)


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    shards = {"1.safetensors": {"a": torch.ones(2)}, "2.safetensors": {"a": torch.ones(2), "b": torch.ones(1)}}
    write_shards(tmp_path, shards, {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})

    with pytest.raises(CheckpointError, match="tensor 'a' is in"):
        SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        [],
        {},
        {"weight_map": {}},
        {"weight_map": []},
        {"weight_map": {"a": "../1.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "pytorch_model.bin"}},
    ],
)
def test_malformed_index_is_refused(tmp_path: Path, index: object) -> None:
    write_shards(tmp_path, {"1.safetensors": {"a": torch.ones(2)}}, index)

    with pytest.raises(CheckpointError, match="index"):
        SafetensorsCheckpoint(tmp_path)


# --- folders without safetensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickle_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(UnsupportedModelError, match=rf"{name}, a pickle.*safetensors version"):
        SafetensorsCheckpoint(tmp_path)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        SafetensorsCheckpoint(tmp_path)


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    for name in ("x.safetensors", "y.safetensors"):
        save_file({name: torch.ones(1)}, tmp_path / name)

    with pytest.raises(CheckpointError, match=r"x\.safetensors, y\.safetensors"):
        SafetensorsCheckpoint(tmp_path)
