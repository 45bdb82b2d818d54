"""resolve_model: paths, split files and hub ids. Wheels are in test_wheels.py."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from models.errors import SourceError, UnsupportedModelError
from models.sources import hub_files
from models.sources.resolve import ModelFiles, resolve_model


def no_progress(*_: object) -> None:
    pass


def resolve(model: str, revision: str | None = None) -> ModelFiles:
    return resolve_model(model, revision, no_progress)


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
    return paths


def test_folder_in_hugging_face_layout(tmp_path: Path) -> None:
    touch(tmp_path, "config.json", "model.safetensors")
    assert resolve(str(tmp_path)) == ModelFiles(tmp_path, (), str(tmp_path))


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (path,) = touch(tmp_path, "m.gguf")
    assert resolve("~/m.gguf") == ModelFiles(None, (path,), "~/m.gguf")


def test_folder_with_one_gguf(tmp_path: Path) -> None:
    (path,) = touch(tmp_path, "m.Q4_K_M.gguf")
    assert resolve(str(tmp_path)).gguf == (path,)


@pytest.mark.parametrize("given", ["", "m-00001-of-00003.gguf", "m-00003-of-00003.gguf"])
def test_split_set_in_order(tmp_path: Path, given: str) -> None:
    parts = touch(tmp_path, *(f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)))
    assert resolve(str(tmp_path / given)).gguf == tuple(parts)


@pytest.mark.parametrize("given", ["", "m-00001-of-00003.gguf"])
def test_missing_part_is_named(tmp_path: Path, given: str) -> None:
    touch(tmp_path, "m-00001-of-00003.gguf", "m-00003-of-00003.gguf")
    with pytest.raises(SourceError, match=r"lacks m-00002-of-00003\.gguf"):
        resolve(str(tmp_path / given))


def test_folder_with_several_models_lists_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf")
    with pytest.raises(SourceError, match=r"several models: a\.gguf, b-00001-of-00002\.gguf;"):
        resolve(str(tmp_path))


def test_folder_without_a_model(tmp_path: Path) -> None:
    touch(tmp_path, "readme.txt")
    with pytest.raises(SourceError, match=r"neither a config\.json nor a \.gguf"):
        resolve(str(tmp_path))


def test_file_of_another_kind(tmp_path: Path) -> None:
    (path,) = touch(tmp_path, "model.safetensors")
    with pytest.raises(SourceError, match="give the folder"):
        resolve(str(path))


@pytest.mark.parametrize("name", ["model.bin", "m.PT", "m.pth", "m.ckpt", "m.pkl"])
def test_pickle_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    (path,) = touch(tmp_path, name)
    for given in (path, tmp_path):
        with pytest.raises(SourceError, match=r"looks like a pickle.*safetensors version"):
            resolve(str(given))


@pytest.mark.parametrize(
    "model",
    ["/no/such/model", "./missing", "~/missing", "missing.gguf", "owner/missing.gguf", "m.bin", "m.safetensors"],
)
def test_mistyped_path_is_said_to_be_missing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # a call would fail
    with pytest.raises(SourceError, match="does not exist"):
        resolve(model)


@pytest.mark.parametrize("model", ["", "a b", "a/b/c", "owner/repo:", "owner/repo:a:b"])
def test_text_that_is_no_model_at_all(model: str) -> None:
    with pytest.raises(SourceError):
        resolve(model)


def test_revision_of_a_path_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "config.json")
    with pytest.raises(SourceError, match="revision 'v1'"):
        resolve(str(tmp_path), "v1")


# --- hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub whose one snapshot is tmp_path; the last call's arguments are recorded."""
    seen: dict[str, Any] = {}

    def snapshot_download(repo: str, **kwargs: Any) -> str:
        seen.update(kwargs, repo=repo)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub_files, "fetch_large_files", lambda *_: None)
    return seen


def test_hub_snapshot(tmp_path: Path, hub: dict[str, Any]) -> None:
    touch(tmp_path, "config.json", "model.safetensors")
    assert resolve("owner/repo", "v1") == ModelFiles(tmp_path, (), "owner/repo")
    assert (hub["repo"], hub["revision"]) == ("owner/repo", "v1")
    assert "*.bin" not in hub["allow_patterns"]


def test_hub_weights_are_fetched_after_the_configuration_was_checked(tmp_path: Path, hub: dict[str, Any]) -> None:
    touch(tmp_path, "config.json", "model.safetensors")

    def refuse(files: ModelFiles) -> None:
        assert files.root == tmp_path
        assert hub["allow_patterns"] == ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
        raise UnsupportedModelError("no such architecture")

    with pytest.raises(UnsupportedModelError, match="no such architecture"):
        resolve_model("owner/repo", None, no_progress, refuse)


@pytest.mark.usefixtures("hub")
def test_hub_repository_of_pickles_is_refused_with_the_remedy(tmp_path: Path) -> None:
    touch(tmp_path, "config.json")
    with pytest.raises(SourceError, match=r"no \*\.safetensors file; .*pickles.*safetensors version"):
        resolve("owner/repo")


@pytest.mark.usefixtures("hub")
def test_hub_repository_of_gguf_needs_a_selector(tmp_path: Path) -> None:
    touch(tmp_path, "README.md")
    with pytest.raises(SourceError, match="owner/repo:Q4_K_M"):
        resolve("owner/repo")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("Q4_K_M", ["m-Q4_K_M.gguf"]),
        ("q4_k_m", ["m-Q4_K_M.gguf"]),
        ("Q8_0", ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"]),
        ("m-Q4_K_M.gguf", ["m-Q4_K_M.gguf"]),
        (
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"],
        ),
    ],
)
def test_hub_gguf_by_quantization_or_name(tmp_path: Path, selector: str, names: list[str]) -> None:
    touch(tmp_path, "m-Q4_K_M.gguf", "m-IQ4_K_M.gguf", "m-Q4_K.gguf")
    touch(tmp_path, "Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf")
    assert resolve(f"owner/repo:{selector}").gguf == tuple(tmp_path / name for name in names)


@pytest.mark.usefixtures("hub")
def test_hub_gguf_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="'Q2_K'"):
        resolve("owner/repo:Q2_K")


@pytest.mark.usefixtures("hub")
def test_hub_gguf_that_is_ambiguous(tmp_path: Path) -> None:
    touch(tmp_path, "a-Q8_0.gguf", "b-Q8_0.gguf")
    with pytest.raises(SourceError, match=r"several models: a-Q8_0\.gguf, b-Q8_0\.gguf"):
        resolve("owner/repo:Q8_0")


def test_hub_offline_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SourceError, match="offline mode"):
        resolve("owner/repo")


def test_hub_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub_files, "fetch_large_files", lambda *_: None)
    with pytest.raises(SourceError, match=r"No space left on device; .*HF_HOME"):
        resolve("owner/repo")
