"""QuantizedCheckpoint: a safetensors checkpoint in which each quantized module is one tensor."""

from models.checkpoints.base import Checkpoint, StoredTensor
from models.checkpoints.quantized.parts import Parts
from models.checkpoints.quantized.registry import QuantizedReader
from models.checkpoints.safetensors import plain_dtype
from models.errors import CheckpointError

# Scales of an 8-bit KV cache. headrace's cache has the activations' dtype and needs none.
_KV_CACHE_SCALES = (
    *(".self_attn.k_scale", ".self_attn.v_scale"),
    *(".k_proj.k_scale", ".v_proj.v_scale"),  # ModelOpt's
)


class QuantizedCheckpoint:
    """A checkpoint with `<module>.weight` in place of each quantized module's codes, scales and zeros.

    Tensors that belong to no quantized module stay as they are, except scales of the KV cache, which are left out.
    """

    def __init__(self, files: Checkpoint, reader: QuantizedReader) -> None:
        """Combine each quantized module's tensors in `files` into one.

        Raises CheckpointError for modules that are incomplete or stored twice, UnsupportedModelError for variants that
        headrace does not read.
        """
        rest = {name: tensor for name, tensor in files.tensors.items() if not name.endswith(_KV_CACHE_SCALES)}
        gathered: dict[str, StoredTensor] = {}
        for name, tensor in files.tensors.items():
            module = reader.module_of(tensor) if name in rest else None
            if module is not None:
                gathered[name] = reader.gather(Parts(module, rest, tensor))
        self.dtype = plain_dtype(rest.values())
        self.tensors: dict[str, StoredTensor] = {}
        for name in files.tensors:  # each matrix at the position of its codes, so that files are read forward
            offered = gathered.get(name) or rest.get(name)
            if offered is None:
                continue
            if offered.name in self.tensors:
                raise CheckpointError(
                    f"{offered.file} holds {offered.name!r} quantized and plain; fetch the checkpoint again"
                )
            self.tensors[offered.name] = offered
