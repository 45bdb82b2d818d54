"""Download of models from the Hugging Face hub, with huggingface_hub's cache, token and offline mode."""

from fnmatch import fnmatch
from pathlib import Path

from models.errors import SourceError
from models.progress import ProgressReport

_WEIGHTS = "*.safetensors"  # never pickles (*.bin, *.pt)
# Configuration, the weights' index, and all forms of tokenizers.
_DESCRIPTION = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
_IGNORED = ["original/*", "consolidated*", "onnx/*", "openvino/*", "coreml/*"]


def fetch_description(repo: str, revision: str | None, progress: ProgressReport) -> Path:
    """Fetch a safetensors repository without its weights; return the snapshot folder. Raises SourceError."""
    root = _download(repo, revision, _DESCRIPTION, _IGNORED, progress)
    if not (root / "config.json").is_file():
        raise SourceError(
            f"hub repository {repo!r} has no config.json, so it has no safetensors model; "
            f"for a repository of GGUF files choose one: {repo}:Q4_K_M or {repo}:file.gguf"
        )
    return root


def fetch_weights(repo: str, revision: str | None, progress: ProgressReport) -> Path:
    """Fetch a safetensors repository with its weights; return the snapshot folder. Raises SourceError."""
    root = _download(repo, revision, [*_DESCRIPTION, _WEIGHTS], _IGNORED, progress)
    if not any(root.glob(_WEIGHTS)):
        raise SourceError(
            f"hub repository {repo!r} has no *.safetensors file; weights in *.bin or *.pt files are pickles, which can "
            "run code when they are opened, and are not fetched; use a safetensors version of the model (some "
            "repositories have one under --revision refs/pr/N), or convert it with transformers' save_pretrained"
        )
    return root


def fetch_gguf(repo: str, selector: str, revision: str | None, progress: ProgressReport) -> list[Path]:
    """Fetch a repository's .gguf files for `selector`, a quantization or a file name. Raises SourceError.

    A split file is selected by its first part's name or by its quantization; both fetch all parts.
    """
    patterns = _gguf_patterns(selector)
    root = _download(repo, revision, patterns, [], progress)
    # The snapshot may have files of earlier downloads, too.
    found = sorted(
        path
        for path in root.rglob("*.gguf")
        if any(fnmatch(path.relative_to(root).as_posix(), pattern) for pattern in patterns)
    )
    if not found:
        raise SourceError(f"hub repository {repo!r} has no .gguf file for {selector!r}; see its list of files")
    return found


def _gguf_patterns(selector: str) -> list[str]:
    if selector.lower().endswith(".gguf"):
        stem, split, _ = selector.rpartition("-00001-of-")
        return [f"{stem}-?????-of-*.gguf"] if split else [selector]
    patterns = []
    for name in dict.fromkeys((selector, selector.upper(), selector.lower())):
        patterns += [f"{name}.gguf"] + [f"*[-._/]{name}{tail}.gguf" for tail in ("", "-?????-of-?????")]
    return patterns


def _download(
    repo: str, revision: str | None, patterns: list[str], ignored: list[str], progress: ProgressReport
) -> Path:
    from huggingface_hub import constants, errors, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    from models.sources import hub_files  # and with it httpx, which a start from local files does not need

    disable_progress_bars()  # `progress` reports instead
    where = f"hub repository {repo!r}" + (f" at revision {revision!r}" if revision else "")
    progress(f"look up {repo}", 0, 0, "B")
    try:
        hub_files.fetch_large_files(repo, revision, patterns, ignored, progress)
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except errors.GatedRepoError as error:
        raise SourceError(f"{where} is gated: accept its terms on its page and set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{where} does not exist, though the repository does; check --revision") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(f"{where} does not exist, or is private and HF_TOKEN is not set; check the name") from error
    except errors.HFValidationError as error:
        raise SourceError(f"{repo!r} is neither an existing path nor a hub id ({error})") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        mode = "offline mode (HF_HUB_OFFLINE) is on" if constants.HF_HUB_OFFLINE else _unreachable(error)
        raise SourceError(
            f"{where} is not in the local cache, and {mode}; download it first or go online; if "
            f"you meant a folder, check the spelling: there is no {repo!r} here"
        ) from error
    except hub_files.http_errors() as error:
        raise SourceError(f"cannot download {where}: {error}; try again later") from error
    except OSError as error:
        raise SourceError(
            f"cannot store {where}: {error.strerror or error}; free some space or set HF_HOME to another disk"
        ) from error


def _unreachable(error: Exception) -> str:
    response = getattr(error.__cause__, "response", None)
    if response is None:
        return "the hub cannot be reached"
    return f"the hub answers {response.status_code} {getattr(response, 'reason_phrase', '')}".rstrip()
