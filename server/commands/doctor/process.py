"""Findings about this process: Python, packages, open files, temporary folder and home folder."""

import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata

from engine.child_processes.environment import BINDING
from engine.command_io.findings import Finding, ok, problem, warning
from server.commands.serve.open_files import MIN_OPEN_FILES, open_files_needed, room_for_connections
from server.config.server import ServerConfig

_PACKAGES = ("headrace", "torch", "transformers", "tokenizers", "fastapi", "uvicorn", "jinja2", "llguidance")


def process_findings(config: ServerConfig) -> Iterator[Finding]:
    yield ok("Python", f"{sys.version.split()[0]}, {sys.executable}")
    yield package_finding()
    yield from open_files_findings(config.max_connections)
    yield temporary_folder_finding()
    yield from binding_findings()
    if os.environ.get("HOME") == "/" and "HEADRACE_CACHE" not in os.environ and os.geteuid() != 0:
        yield warning("home folder", "/, since the user has none; set HEADRACE_CACHE to a writable folder")


def package_finding() -> Finding:
    versions, missing = [], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return problem("packages", f"not installed: {', '.join(missing)}; install headrace again")
    return ok("packages", ", ".join(versions))


def open_files_findings(max_connections: int) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = open_files_needed(max_connections)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        yield ok("open files", f"up to {'any number' if hard == resource.RLIM_INFINITY else f'{hard:,}'}")
    elif hard < MIN_OPEN_FILES:
        yield problem("open files", f"at most {hard:,}; the server does not start below {MIN_OPEN_FILES} (ulimit -n)")
    elif (room := room_for_connections(hard)) >= max_connections:
        yield ok("open files", f"up to {hard:,}")
    else:
        yield warning(
            "open files",
            f"at most {hard:,}, and {max_connections:,} connections need {needed:,}: more than {room:,} get 503; "
            "raise the limit (ulimit -n) or lower --max-connections",
        )


def binding_findings() -> Iterator[Finding]:
    """Check whether this process is bound to a single core, and report variables that bind threads to cores."""
    given = [name for name in BINDING if name in os.environ]
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1 < (os.cpu_count() or 1):
        cause = f", perhaps because of {' and '.join(given)} and an OpenMP library in LD_PRELOAD" if given else ""
        yield warning("affinity", f"this process can only run on one of {os.cpu_count()} CPUs{cause}")
    elif given:
        yield ok("affinity", f"{', '.join(given)} are not passed on to the engine process")


def temporary_folder_finding() -> Finding:
    try:
        return ok("temporary folder", tempfile.gettempdir())
    except OSError:
        return warning("temporary folder", "no writable folder; set TMPDIR to one")
