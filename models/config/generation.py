"""Default sampling values that a checkpoint recommends in its generation_config.json."""

from pathlib import Path

from models.config.hf_config import read_json_config
from models.errors import SourceError

_FILE = "generation_config.json"
_NUMBERS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def generation_defaults(choice: str, folder: Path | None) -> dict[str, float]:
    """The values given, of temperature, top_p, top_k, min_p and repetition_penalty.

    choice: "auto" (of the checkpoint's `folder`, if it has the file), "vllm" (none), or a folder, which must have it.
    Raises SourceError if the chosen folder lacks the file, CheckpointError if a file or a value is malformed.
    """
    if choice == "vllm":
        return {}
    if choice == "auto":
        path = folder / _FILE if folder is not None else None
        if path is None or not path.exists():
            return {}
    else:
        path = Path(choice).expanduser() / _FILE
        if not path.exists():
            raise SourceError(f"--generation-config {choice}: there is no {path}; give a folder with one, auto or vllm")
    config = read_json_config(path)
    # 0 is a value here too: temperature 0 is greedy, top_k 0 and min_p 0 are off.
    return {name: config.number(name, minimum=0.0) for name in _NUMBERS if config.has(name)}
