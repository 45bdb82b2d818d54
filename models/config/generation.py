"""Default sampling values: a checkpoint's recommendations, or known values for models whose GGUF files lack them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config.hf_config import read_json_config
from models.errors import CheckpointError, SourceError

_FILE = "generation_config.json"
# The numbers, with llama.cpp's keys for them.
_GGUF_KEYS = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


# Most GGUF files lack the keys, and at temperature 1 small models write nonsense. These values are the recommendations
# of the authors' model cards and generation_config.json, except for the smallest SmolLM2: with the recommended 0.2 and
# 0.9 and no penalty, nine of 24 answers of a 4-bit file repeated themselves up to the token limit. With these, none
# did. Each has a prefix of general.basename, and general.size_label or None for all sizes.
_KNOWN: tuple[tuple[str, str | None, Mapping[str, float]], ...] = (
    ("smollm2", "135M", {"temperature": 0.2, "top_p": 0.5, "repetition_penalty": 1.1}),
    ("smollm2", None, {"temperature": 0.2, "top_p": 0.9}),
    ("qwen2.5", None, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}),
)


def generation_defaults(
    choice: str, folder: Path | None, gguf_metadata: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Return the stated values of temperature, top_p, top_k, min_p and repetition_penalty, by name.

    choice: "auto" (from generation_config.json in the checkpoint's `folder`, else from the GGUF's metadata), "vllm" (no
    values), or a folder. Raises SourceError if that folder lacks generation_config.json, CheckpointError if a file
    or a value is malformed.
    """
    if choice == "vllm":
        return {}
    if choice == "auto":
        path = folder / _FILE if folder is not None else None
        if path is None or not path.exists():
            return {} if gguf_metadata is None else _gguf_defaults(gguf_metadata)
    else:
        path = Path(choice).expanduser() / _FILE
        if not path.exists():
            raise SourceError(f"--generation-config {choice}: there is no {path}; give a folder with one, auto or vllm")
    config = read_json_config(path)
    # 0 is a value here too: temperature 0 is greedy, top_k 0 and min_p 0 are off.
    return {name: config.number(name, minimum=0.0) for name in _GGUF_KEYS if config.has(name)}


def _gguf_defaults(metadata: Mapping[str, Any]) -> dict[str, float]:
    values = {name: metadata[key] for name, key in _GGUF_KEYS.items() if key in metadata}
    for name, value in values.items():
        if not isinstance(value, (int, float)) or not 0.0 <= value < float("inf"):
            raise CheckpointError(f"{_GGUF_KEYS[name]} is {value!r}; it must be a number, at least 0")
    if values:
        return {name: float(value) for name, value in values.items()}
    if "chat_template" not in " ".join(metadata):  # a base model
        return {}
    basename, size = str(metadata.get("general.basename", "")).lower(), metadata.get("general.size_label")
    known = (
        dict(values) for prefix, of_size, values in _KNOWN if basename.startswith(prefix) and of_size in (None, size)
    )
    return next(known, {})


def sampling_note(defaults: Mapping[str, float]) -> str | None:
    """Return a start-up note that lists the default sampling values of requests, or None if there are no defaults."""
    if not defaults:
        return None
    values = ", ".join(f"{name} {value:g}" for name, value in defaults.items())
    return f"sampling unless a request says otherwise: {values}"
