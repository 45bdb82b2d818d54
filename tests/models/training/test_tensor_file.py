"""Tensors as a file that safetensors reads, without a copy of them in memory."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.training.tensor_file import tensor_file_parts


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(3, 5),
        "transposed": torch.randn(4, 6).T,
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 4),
        "part": torch.randn(9)[2:5],
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"".join(tensor_file_parts(tensors, {"format": "pt", "text": 'é "quoted"'})))

    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].shape == tensor.shape for name, tensor in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "text": 'é "quoted"'}
