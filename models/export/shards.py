"""ShardWriter: tensors written to safetensors files of bounded size, in Hugging Face layout."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from models.errors import CheckpointError

_MAX_BYTES = 4 << 30  # of a file, and so of the tensors in memory
_SINGLE = "model.safetensors"


class ShardWriter:
    """Writes tensors, added in any order, and frees them once written. `finish` gives the files their final names."""

    def __init__(self, folder: Path, max_bytes: int = _MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._files: list[list[str]] = []  # names in each file
        self.num_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        if self._pending and self._pending_bytes + tensor.nbytes > self._max_bytes:
            self._write()
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += tensor.nbytes
        self.num_bytes += tensor.nbytes

    def finish(self) -> None:
        """Write the last file, and an index if there are several files. Raises OSError or CheckpointError if writing
        fails."""
        self._write()
        count = len(self._files)
        if count == 1:
            self._part(0).rename(self._folder / _SINGLE)
            return
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._files):
            file = f"model-{index + 1:05}-of-{count:05}.safetensors"
            self._part(index).rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        content = {"metadata": {"total_size": self.num_bytes}, "weight_map": weight_map}
        (self._folder / f"{_SINGLE}.index.json").write_text(json.dumps(content, indent=2) + "\n")

    def _write(self) -> None:
        path = self._part(len(self._files))
        try:
            save_file(self._pending, path, metadata={"format": "pt"})
        except SafetensorError as error:  # raised in place of OSError
            raise CheckpointError(f"cannot write the checkpoint: {error}") from error
        self._files.append(list(self._pending))
        self._pending, self._pending_bytes = {}, 0

    def _part(self, index: int) -> Path:
        return self._folder / f"part-{index}.safetensors"
