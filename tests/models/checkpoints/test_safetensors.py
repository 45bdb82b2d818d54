"""safetensors reader: single files, shards, and every kind of damage as one error that names the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.errors import CheckpointError, ModelError, UnsupportedModelError
from tests.helpers.damaged_safetensors import DAMAGED, SOUND

INDEX = "model.safetensors.index.json"


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
