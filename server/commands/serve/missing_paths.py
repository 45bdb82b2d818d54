"""check_paths: whether the paths of models and adapters exist, before a process is started that imports torch."""

from pathlib import Path

from engine.config import EngineConfig
from engine.errors import StartupError
from server.config.server import ServerConfig

_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_paths(server: ServerConfig, engine: EngineConfig) -> None:
    """Raise StartupError for the first path that does not exist, in the words of models/sources/resolve.py."""
    entries = server.models.entries
    for config, prefix in [(entry.engine, f"{entry.name}: ") for entry in entries] or [(engine, "")]:
        if (path := _missing(config.model)) is not None:
            raise StartupError(f"{prefix}{path}")
        if config.draft_model is not None and (path := _missing(config.draft_model)) is not None:
            raise StartupError(f"{prefix}the draft model {config.draft_model} cannot be used: {path}")
    if not entries and engine.enable_lora:
        for module in server.lora.modules:
            if not Path(module.path).exists():
                raise StartupError(f"--lora-modules {module.name}: {module.path!r} does not exist; check the spelling")


def _missing(model: str) -> str | None:
    """What is wrong with a model's source that can only be a path, and is none; else None."""
    is_path = model.startswith(("/", "./", "../", "~")) or (model.lower().endswith(_FILES) and ":" not in model)
    path = Path(model).expanduser()
    if not is_path or path.exists():
        return None
    return f"model path {str(path)!r} does not exist; check the spelling"
