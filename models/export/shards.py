"""ShardWriter: tensors into safetensors files of bounded size, as Hugging Face lays them out."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from models.errors import CheckpointError

_MAX_BYTES = 4 << 30  # of one file, and so of what is held in memory
_SINGLE = "model.safetensors"


class ShardWriter:
    """Takes tensors in any order; `finish` gives the files their names. Nothing is kept of a file that was written."""

    def __init__(self, folder: Path, max_bytes: int = _MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._held: dict[str, torch.Tensor] = {}
        self._held_bytes = 0
        self._files: list[list[str]] = []  # names in each file
        self.num_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        if self._held and self._held_bytes + tensor.nbytes > self._max_bytes:
            self._write()
        self._held[name] = tensor.contiguous()
        self._held_bytes += tensor.nbytes
        self.num_bytes += tensor.nbytes

    def finish(self) -> None:
        """Write what is left; one file, or several with an index. Raises OSError, or CheckpointError."""
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
            save_file(self._held, path, metadata={"format": "pt"})
        except SafetensorError as error:  # its own name for what the system says
            raise CheckpointError(f"cannot write the checkpoint: {error}") from error
        self._files.append(list(self._held))
        self._held, self._held_bytes = {}, 0

    def _part(self, index: int) -> Path:
        return self._folder / f"part-{index}.safetensors"
