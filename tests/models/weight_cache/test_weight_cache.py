"""Weight files: whole or refused; the cache that saves them within its share of the disk; the key of an entry."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.kernels.cpu.library import kernel_library
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from models.weight_cache import cache as cache_module
from models.weight_cache import entry as entry_module
from models.weight_cache import weight_file as file_module
from models.weight_cache.cache import WeightCache
from models.weight_cache.entry import cached_weights, files_state
from models.weight_cache.index import WeightFileError
from models.weight_cache.weight_file import HUGE_PAGE_BYTES, map_weight_file, write_weight_file
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.model_folders import write_model_folder
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")

TENSORS = {
    "codes": torch.arange(3 * HUGE_PAGE_BYTES + 17, dtype=torch.int64).to(torch.uint8),
    "norm": torch.linspace(-1, 1, 77),
    "table": torch.randn(129, 33).to(torch.bfloat16),
    "order": torch.arange(5, dtype=torch.int32)[None],
    "none": torch.empty(0, 4),
    "long": torch.arange(5 * HUGE_PAGE_BYTES, dtype=torch.int64).to(torch.uint8),  # over the end of a piece
}


def ignore(*_: object) -> None:
    pass


def written(path: Path) -> Path:
    with path.open("wb") as file:
        write_weight_file(file, TENSORS, {"rows": 5}, ignore)
    return path


def test_tensors_come_back_as_they_were_and_where_kernels_can_read_them(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    found = map_weight_file(written(tmp_path / "w"), lambda *progress: done.append(progress))

    assert found.extra == {"rows": 5}
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found.tensors[name], tensor), name
        assert found.tensors[name].dtype == tensor.dtype
        assert not tensor.numel() or found.tensors[name].data_ptr() % 64 == 0
    assert found.num_bytes % HUGE_PAGE_BYTES == 0
    assert 0 <= found.huge_page_share <= 1
    assert done[-1] == (found.num_bytes, found.num_bytes)


def test_the_file_cannot_be_changed_through_its_tensors(tmp_path: Path) -> None:
    path = written(tmp_path / "w")
    before = path.read_bytes()
    map_weight_file(path, ignore).tensors["norm"].fill_(7)
    assert path.read_bytes() == before


@pytest.mark.parametrize("length", [0, 15, 16, 1000, HUGE_PAGE_BYTES, 9 * HUGE_PAGE_BYTES, -1, -17, -200])
def test_a_file_that_was_cut_is_refused(length: int, tmp_path: Path) -> None:
    path = written(tmp_path / "w")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightFileError):
        map_weight_file(path, ignore)


@pytest.mark.parametrize(
    "place", [0, 3 * HUGE_PAGE_BYTES + 5, 8 * HUGE_PAGE_BYTES, 9 * HUGE_PAGE_BYTES - 1, -1, -12, -25, -32, -40, -200]
)
def test_a_file_with_a_changed_byte_is_refused(place: int, tmp_path: Path) -> None:
    path = written(tmp_path / "w")
    data = bytearray(path.read_bytes())
    data[place] ^= 0x41
    path.write_bytes(data)
    with pytest.raises(WeightFileError):
        map_weight_file(path, ignore)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "w")
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    with pytest.raises(WeightFileError, match="another version"):
        map_weight_file(path, ignore)


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache", min_bytes=0, requires_huge_pages=False)


def test_what_is_saved_is_found(cache: WeightCache) -> None:
    stages: list[str] = []
    assert cache.find("a", ignore) is None
    cache.save("a", TENSORS, [1], lambda stage, *_: stages.append(stage))
    found = cache.find("a", lambda stage, *_: stages.append(stage))

    assert found is not None
    assert found.extra == [1]
    assert torch.equal(found.tensors["long"], TENSORS["long"])
    assert set(stages) == {"cache packed weights", "map weights"}
    assert cache.find("b", ignore) is None
    assert [path.name for path in cache.folder.iterdir()] == ["a.weights"]


def test_what_another_start_has_saved_meanwhile_is_replaced(cache: WeightCache) -> None:
    def save_too(*_: object) -> None:
        cache.save("a", TENSORS, "theirs", ignore)

    cache.save("a", TENSORS, "ours", save_too)
    found = cache.find("a", ignore)
    assert found is not None
    assert found.extra == "ours"
    assert [path.name for path in cache.folder.iterdir()] == ["a.weights"]


def test_a_damaged_file_is_passed_over_and_made_again(cache: WeightCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.save("a", TENSORS, None, ignore)
    path = cache.folder / "a.weights"
    with path.open("r+b") as file:
        file.write(b"x" * 100)
    assert cache.find("a", ignore) is None
    assert "a.weights is not used: its data is damaged" in caplog.text
    cache.save("a", TENSORS, None, ignore)
    assert cache.find("a", ignore) is not None


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(cache: WeightCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.folder.mkdir()
    os.mkfifo(cache.folder / "a.weights")
    assert cache.find("a", ignore) is None
    assert "a.weights is not used: it is not a file" in caplog.text
    cache.save("a", TENSORS, None, ignore)
    assert cache.find("a", ignore) is not None


def test_small_weights_are_not_cached(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path, requires_huge_pages=False)
    cache.save("a", {"w": torch.zeros(100)}, None, ignore)
    assert not list(tmp_path.iterdir())


def test_types_that_a_file_cannot_hold_are_not_cached(cache: WeightCache) -> None:
    cache.save("a", {"w": torch.zeros(100, dtype=torch.float64)}, None, ignore)
    assert cache.find("a", ignore) is None


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = WeightCache(tmp_path / "file" / "weights", min_bytes=0, requires_huge_pages=False)
    cache.save("a", TENSORS, None, ignore)
    assert cache.find("a", ignore) is None
    assert "packed weights are not cached" in caplog.text


def test_a_name_that_is_taken_by_a_folder_leaves_nothing_else(
    cache: WeightCache, caplog: pytest.LogCaptureFixture
) -> None:
    (cache.folder / "a.weights").mkdir(parents=True)
    cache.save("a", TENSORS, None, ignore)
    assert cache.find("a", ignore) is None
    assert [path.name for path in cache.folder.iterdir()] == ["a.weights"]
    assert "packed weights are not cached" in caplog.text


def test_a_full_disk_leaves_nothing_behind(
    cache: WeightCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "write_weight_file", full)
    cache.save("a", TENSORS, None, ignore)
    assert not list(cache.folder.iterdir())
    assert "No space left on device" in caplog.text


def test_the_least_recently_used_make_room(
    cache: WeightCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    usage = namedtuple("usage", "total used free")
    size = sum(tensor.nbytes for tensor in TENSORS.values())
    free = [1 << 40]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free[0]))
    for age, key in enumerate("abc"):
        cache.save(key, TENSORS, None, ignore)
        os.utime(cache.folder / f"{key}.weights", (100 + age, 100 + age))
    assert cache.find("a", ignore) is not None  # used now

    free[0] = 4 * 3 * (size + 2 * HUGE_PAGE_BYTES) - 3 * size  # room for three
    cache.save("d", TENSORS, None, ignore)
    assert sorted(path.name[0] for path in cache.folder.iterdir()) == ["a", "c", "d"]

    free[0] = size  # a quarter of it and of what is there is less than one takes
    cache.save("e", {"w": torch.zeros(8 * size, dtype=torch.uint8)}, None, ignore)
    assert sorted(path.name[0] for path in cache.folder.iterdir()) == ["a", "c", "d"]
    assert "a quarter of its disk's free space" in caplog.text

    free[0] = 4 * 3 * (size + 2 * HUGE_PAGE_BYTES) - 3 * size  # room for three, all of which have just been used
    for key in "acd":
        os.utime(cache.folder / f"{key}.weights")
    cache.save("f", TENSORS, None, ignore)
    assert sorted(path.name[0] for path in cache.folder.iterdir()) == ["a", "c", "d"]


def test_a_process_that_is_killed_while_it_saves_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys, torch\n"
        "from models.weight_cache.cache import WeightCache\n"
        "cache = WeightCache(pathlib.Path(sys.argv[1]), min_bytes=0, requires_huge_pages=False)\n"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.save('a', {'w': torch.zeros(40 << 20, dtype=torch.uint8)}, None, die)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "cache")], check=False, cwd=ROOT)
    assert run.returncode == -signal.SIGKILL
    assert not list((tmp_path / "cache").iterdir())


def test_without_huge_pages_nothing_is_saved_or_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = WeightCache(tmp_path, min_bytes=0)
    monkeypatch.setattr(file_module, "_huge_page_share", lambda _: 1.0)
    cache.save("a", TENSORS, None, ignore)
    assert cache.find("a", ignore) is not None

    monkeypatch.setattr(file_module, "_huge_page_share", lambda _: 0.5)
    assert cache.find("a", ignore) is None
    cache.save("b", TENSORS, None, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["a.weights"]


def test_share_of_huge_pages_is_read_of_the_own_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = torch.empty(4 * HUGE_PAGE_BYTES, dtype=torch.uint8)
    smaps = tmp_path / "smaps"
    other = "7f000000-7f400000 rw-p 00000000 fe:00 1 /other\nSize: 8192 kB\nFilePmdMapped:    8192 kB\n"
    own = f"{mapped.data_ptr():x}-ffff rw-p 00000000 fe:00 1 /own file\nRss: 8192 kB\nFilePmdMapped:    2048 kB\n"
    monkeypatch.setattr(file_module, "_SMAPS", smaps)
    assert file_module._huge_page_share(mapped) == 0
    for text in (other + own, own + other):
        smaps.write_text(text)
        assert file_module._huge_page_share(mapped) == 0.25


def one_file(folder: Path) -> ModelFiles:
    path = folder / "model.gguf"
    if not path.exists():
        path.write_bytes(b"weights")
    return ModelFiles(None, (path,), "m")


def folder_model(folder: Path) -> ModelFiles:
    for name in ("model.safetensors", "config.json", "quantize_config.json", "model.safetensors.index.json"):
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    return ModelFiles(folder, (), "m")


def key(cache: WeightCache, files: ModelFiles, options: WeightOptions | None = None, **overrides: object) -> str:
    state = files_state(files)
    assert state is not None
    return cached_weights(cache, files, state, options or WeightOptions(), overrides).key


def test_options_that_say_nothing_make_no_other_key(cache: WeightCache, tmp_path: Path) -> None:
    files = one_file(tmp_path)
    assert key(cache, files) == key(cache, files, WeightOptions(includes_head=True))


@pytest.mark.parametrize("make", [one_file, folder_model])
def test_key_changes_with_all_that_decides_the_weights(
    make: Callable[[Path], ModelFiles], cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make(tmp_path)
    keys = [key(cache, files)]
    assert keys == [key(cache, files)]
    keys.append(key(cache, files, WeightOptions(quantize_to=Encoding.INT4)))
    keys.append(key(cache, files, WeightOptions(quantize_to=Encoding.INT4, group_size=128)))
    keys.append(key(cache, files, WeightOptions(keeps_quantized=False)))
    keys.append(key(cache, files, rope_theta=5.0))
    for path in sorted(tmp_path.iterdir()):  # the same bytes with the same time: only the time of change differs
        status = path.stat()
        time.sleep(0.02)  # the clock of file times may be as coarse as a timer's tick
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        keys.append(key(cache, files))
    monkeypatch.setattr(entry_module, "code_digest", lambda: b"other")
    keys.append(key(cache, files))
    assert len(set(keys)) == len(keys)


def test_files_that_change_while_they_are_loaded_are_not_cached(cache: WeightCache, tmp_path: Path) -> None:
    files = ModelFiles(write_model_folder(tmp_path / "m"), (), "m")
    state = files_state(files)
    assert state is not None
    compute = cpu_compute(torch.bfloat16)
    for is_changed in (False, True):
        cached = cached_weights(cache, files, state, WeightOptions(), {"is_changed": is_changed})
        opened = open_model(files)
        if is_changed:
            (tmp_path / "m" / "model.safetensors").rename(tmp_path / "old")
            shutil.copy(tmp_path / "old", tmp_path / "m" / "model.safetensors")
        build_decoder(opened, compute, WeightOptions(), ignore, cached)
        assert (cache.find(cached.key, ignore) is None) == is_changed
    (tmp_path / "m" / "config.json").unlink()
    assert files_state(files) is None


def test_a_copy_of_a_model_elsewhere_has_a_key_of_its_own(cache: WeightCache, tmp_path: Path) -> None:
    here = one_file(tmp_path)
    (tmp_path / "there").mkdir()
    shutil.copy2(here.gguf[0], tmp_path / "there" / "model.gguf")
    assert key(cache, here) != key(cache, one_file(tmp_path / "there"))
