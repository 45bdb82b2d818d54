"""The image's lock: every dependency by version and hash, none by an address, and the image installs nothing else."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

_LOCK = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
_ENTRIES = [entry.replace("\\\n", " ") for entry in re.split(r"\n(?=\S)", _LOCK) if not entry.startswith("#")]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_IMAGE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def _locked() -> dict[str, str]:
    found = (Requirement(entry.partition("--hash")[0].strip()) for entry in _ENTRIES)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in found}


def test_every_entry_has_a_version_and_hashes() -> None:
    assert len(_ENTRIES) > 50
    for entry in _ENTRIES:
        assert re.match(r"[\w.-]+==[\w.]+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_no_address_is_in_it() -> None:
    assert "://" not in _LOCK
    assert "--index" not in _LOCK


def test_every_dependency_is_in_it_in_a_version_that_fits() -> None:
    locked = _locked()
    project = _PROJECT["project"]
    extras = [each for name in ("otel", "gpu") for each in project["optional-dependencies"][name]]
    for requirement in map(Requirement, [*project["dependencies"], *extras, *_PROJECT["build-system"]["requires"]]):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: make lock"


def test_the_image_installs_by_hash_alone() -> None:
    installs = re.findall(r"pip install[^\n&]*", _IMAGE)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
