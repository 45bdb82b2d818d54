"""The cores that a process may use: affinity, and the quotas of control groups."""

import os
from pathlib import Path

import pytest

from models.system import cores

pytestmark = pytest.mark.fast


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_quota_is_the_smallest_of_a_group_and_its_parents(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/pod/container\n")
    _write(tmp_path / "mount/pod/container", cpu__max="max 100000\n")
    assert cores.cpu_quota(tmp_path / "mount", own) is None
    _write(tmp_path / "mount/pod", cpu__max="250000 100000\n")
    assert cores.cpu_quota(tmp_path / "mount", own) == 2.5
    _write(tmp_path / "mount/pod/container", cpu__max="300000 100000\n")
    assert cores.cpu_quota(tmp_path / "mount", own) == 2.5


def test_quota_is_read_from_version_1_too(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("3:cpuset:/\n2:cpu,cpuacct:/docker/x\n0::/\n")
    _write(tmp_path / "mount/cpuset", cpu__cfs_quota_us="100\n", cpu__cfs_period_us="100\n")
    _write(tmp_path / "mount/cpu,cpuacct/docker/x", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cores.cpu_quota(tmp_path / "mount", own) is None
    _write(tmp_path / "mount/cpu,cpuacct", cpu__cfs_quota_us="150000\n", cpu__cfs_period_us="100000\n")
    assert cores.cpu_quota(tmp_path / "mount", own) == 1.5


def test_no_control_groups_is_no_limit(tmp_path: Path) -> None:
    assert cores.cpu_quota(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.9, 2), (0.5, 1), (16.0, 8)])
def test_default_is_the_cores_within_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(cores, "_physical_cores", lambda: 8)
    monkeypatch.setattr(cores, "cpu_quota", lambda *_: quota)
    assert cores.usable_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_bounds_the_cores() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores.allowed_cpus() == {min(allowed)}
        assert cores.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
