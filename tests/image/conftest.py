"""The image, built once from the Dockerfile, and containers of it.

The base is Docker's Python image, or under its name the root file system in the folder BASE, with Python in /usr/local.
Where PyTorch's index does not answer, torch is a build for CPUs that pip finds on this machine, and the lock of this
build has its hash too.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from models.system.cache_folder import cache_folder
from tests.helpers.repository import ROOT

_PROGRAMS = ("buildah", "podman", "runc", "nft")
_FOLDER = os.environ.get("BASE", "")
_PYTHON = "3.12"
_BASE = "docker.io/library/python:{}-slim"
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
IMAGE = "localhost/headrace:test"


@dataclass
class Store:
    """Images and containers in a folder of their own."""

    folder: Path

    @property
    def place(self) -> list[str]:
        return ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]

    def buildah(self, *arguments: str) -> str:
        return _run(["buildah", *self.place, *arguments])

    def podman(self, *arguments: str) -> str:
        """Run a command of podman with runc, which also runs where both versions of cgroups are mounted."""
        return _run(["podman", *self.place, "--runtime", "runc", *arguments])

    def has(self, image: str) -> bool:
        return image in self.podman("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()


def _run(command: list[str]) -> str:
    """Return what a command prints. Raises CalledProcessError; its errors are pytest's output."""
    environ = os.environ | {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    return done.stdout.strip()


def _base(store: Store) -> str:
    """Return the version of Python of the base, which the store has afterwards."""
    if not _FOLDER:
        try:
            store.buildah("pull", "--policy", "always", _BASE.format(_PYTHON))
        except subprocess.CalledProcessError:
            pytest.fail("Docker's registry gives no base; make one (docs/installation.md): make test-image BASE=FOLDER")
        return _PYTHON
    version = _run(
        ["chroot", _FOLDER, "/usr/local/bin/python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    )
    if not store.has(_BASE.format(version)):
        container = store.buildah("from", "scratch")
        store.buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        store.buildah("add", container, _FOLDER, "/")
        store.buildah("commit", "--rm", container, _BASE.format(version))
    return version


def _torch_options(folder: Path, python: str) -> list[str]:
    """Options of the build by which it installs a torch that pip finds here, with a lock in the folder of the build."""
    lock = (ROOT / "deploy/requirements.lock").read_text()
    found = re.search(r"^torch==(\S+) \\\n", lock, re.MULTILINE)
    assert found is not None
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _run([*command, "--python-version", python, "--dest", str(wheels), f"torch=={found[1]}"])
    (wheel,) = wheels.glob("torch-*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    own = lock.replace(found[0], f"{found[0]}    --hash=sha256:{digest} \\\n")
    (folder / "test.lock").write_text("\n".join(line for line in own.splitlines() if not line.startswith("--")) + "\n")
    arguments = f"PIP_ARGS=--find-links /wheels --cert {_CERTIFICATES}"
    return ["--volume", f"{wheels}:/wheels:ro", "--build-arg", "LOCK=test.lock", "--build-arg", arguments]


def _answers(url: str) -> bool:
    try:
        return httpx.head(url, timeout=10).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store with the image in it. The folder stays, so that the next run builds only what has changed."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing or platform.system() != "Linux" or os.geteuid() != 0:
        pytest.fail(f"needs Linux, root, and {', '.join(_PROGRAMS)} (Debian's packages); missing: {missing}")
    store = Store(cache_folder() / "image")
    store.folder.mkdir(parents=True, exist_ok=True)
    python = _base(store)
    context = tmp_path_factory.mktemp("context")
    files = _run(["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]).splitlines()
    for name in files:
        if name.partition("/")[0] not in {"tests", "docs", "benchmarks"} and (ROOT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
    options = [] if _answers(_TORCH_INDEX) else _torch_options(context, python)
    # Chroot isolation takes the limits that it is given, and may not raise this machine's.
    limits = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=8192:8192")
    certificates = ("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro")
    build = ("build", "--format", "docker", "--layers", "--pull=never", "--isolation", "chroot", *limits, *certificates)
    store.buildah(*build, "--build-arg", f"PYTHON={python}", *options, "--tag", IMAGE, str(context))
    return store
