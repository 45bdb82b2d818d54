"""The image's locks, for CPUs and for NVIDIA GPUs: every dependency by version and hash, and nothing else is installed.

The one for CPUs has torch's build for CPUs alone, from PyTorch's own index, and nothing of CUDA.
"""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

_CPU, _CUDA = "requirements.lock", "requirements-cuda.lock"
_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_IMAGE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def _text(lock: str) -> str:
    return (ROOT / "deploy" / lock).read_text(encoding="utf-8")


def _entries(lock: str) -> list[str]:
    lines = re.split(r"\n(?=\S)", _text(lock))
    return [entry.replace("\\\n", " ").rstrip("\n") for entry in lines if not entry.startswith(("#", "--"))]


def _locked(lock: str) -> dict[str, str]:
    found = (Requirement(entry.partition("--hash")[0].strip()) for entry in _entries(lock))
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in found}


@pytest.mark.parametrize("lock", [_CPU, _CUDA])
def test_every_entry_has_a_version_and_hashes(lock: str) -> None:
    entries = _entries(lock)
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.+]+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}$", entry), entry


def test_no_address_is_in_them_but_that_of_pytorch() -> None:
    assert "://" not in _text(_CUDA)
    assert "--index" not in _text(_CUDA)
    assert [line for line in _text(_CPU).splitlines() if line.startswith("--") or "://" in line] == [_INDEX]


@pytest.mark.parametrize(("lock", "extras"), [(_CPU, ("otel",)), (_CUDA, ("otel", "gpu"))])
def test_every_dependency_is_in_it_in_a_version_that_fits(lock: str, extras: tuple[str, ...]) -> None:
    locked = _locked(lock)
    project = _PROJECT["project"]
    wanted = [each for name in extras for each in project["optional-dependencies"][name]]
    for requirement in map(Requirement, [*project["dependencies"], *wanted, *_PROJECT["build-system"]["requires"]]):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: make lock"


def test_the_variants_differ_in_torch_and_in_what_gpus_need_alone() -> None:
    cpu, cuda = _locked(_CPU), _locked(_CUDA)
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    for_gpus = re.compile(r"(cuda|nvidia)-.*|triton")
    assert not [name for name in cpu if for_gpus.fullmatch(name)]
    assert {name: version for name, version in cuda.items() if not for_gpus.fullmatch(name)} == {
        **cpu,
        "torch": cuda["torch"],
    }


def test_the_image_installs_by_hash_alone_and_for_cpus_unless_told_otherwise() -> None:
    installs = re.findall(r"pip install[^\n&]*", _IMAGE)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
    assert f"\nARG LOCK=deploy/{_CPU}\n" in _IMAGE
    assert f"--build-arg LOCK=deploy/{_CUDA} " in _IMAGE
