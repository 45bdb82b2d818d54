"""Writer of safetensors files that makes no copy of the tensors in memory."""

import json
from collections.abc import Iterator, Mapping

import torch

_HEADER_ALIGNMENT = 8


def tensor_file_parts(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield the contents of a safetensors file, in parts.

    tensors: fp32, on the CPU; parts of contiguous tensors are views. safetensors' `save` makes two copies of all
    tensors, and its `save_file` reports a full disk as an error without an errno.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        assert tensor.dtype is torch.float32
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        yield memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
