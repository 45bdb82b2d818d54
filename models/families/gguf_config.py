"""Conversion of a GGUF file's metadata to a Hugging Face config.json, so that a family describes itself for both."""

from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.checkpoints.gguf.metadata import gguf_metadata
from models.config.hf_config import HFConfig
from models.errors import CheckpointError
from models.families.refusal import check_is_model, refused_gguf
from models.families.registry import ARCHITECTURES, architecture_of_gguf, family_of


def gguf_config(checkpoint: GGUFCheckpoint) -> HFConfig:
    """Return a GGUF file's metadata as a config.json, with the fields of its family's `gguf_fields`.

    Raises UnsupportedModelError for unknown architectures and for metadata that change results but were not read,
    CheckpointError for missing metadata.
    """
    source = str(checkpoint.path)
    name = HFConfig(checkpoint.metadata, source).text("general.architecture")
    check_is_model(name, source, checkpoint.tensors)
    if not any(name in entry.gguf_names for entry in ARCHITECTURES.values()):
        raise refused_gguf(name, checkpoint.tensors)
    architecture = architecture_of_gguf(name, checkpoint.metadata, checkpoint.tensors)
    file = gguf_metadata(name, checkpoint.metadata, checkpoint.tensors, checkpoint.path)
    fields = {
        "architectures": [architecture],
        "vocab_size": _vocab_size(checkpoint),
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
        "bos_token_id": checkpoint.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": checkpoint.metadata.get("tokenizer.ggml.eos_token_id"),
        **family_of(architecture).gguf_fields(file),
    }
    file.refuse_unread()
    return HFConfig(fields, source)


def _vocab_size(checkpoint: GGUFCheckpoint) -> int:
    """Return the rows of the embedding: the metadata's count is often absent, and its token list may be padded."""
    embedding = checkpoint.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{checkpoint.path} lacks tensor 'token_embd.weight'; fetch it again")
    return embedding.shape[0]
