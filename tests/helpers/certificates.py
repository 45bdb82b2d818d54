"""Certificates for tests, made by the openssl command: an authority, and what it signs."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM files."""

    cert: str
    key: str


class Authority:
    """Signs certificates into a folder, which is its own."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        _openssl(
            *("req", "-x509", "-subj", f"/CN={name}", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *_new_key(folder / "ca"),
        )

    @property
    def cert(self) -> str:
        return str(self._folder / "ca.pem")

    def issue(self, file: str, subject: str = "/CN=localhost", *, days: int = 2) -> Issued:
        """For localhost and 127.0.0.1; also for clients."""
        path = self._folder / file
        _openssl(
            *("req", "-x509", "-CA", self.cert, "-CAkey", str(self._folder / "ca.key"), "-subj", subject),
            *("-days", str(days), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "authorityKeyIdentifier=keyid"),
            *_new_key(path),
        )
        return Issued(f"{path}.pem", f"{path}.key")

    def encrypt(self, issued: Issued, password: str) -> str:
        """A file with the key, encrypted."""
        path = f"{issued.key}.encrypted"
        _openssl("pkcs8", "-topk8", "-in", issued.key, "-out", path, "-passout", f"pass:{password}")
        return path


def _new_key(path: Path) -> tuple[str, ...]:
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    return (*kind, "-keyout", f"{path}.key", "-out", f"{path}.pem")


def _openssl(*arguments: str) -> None:
    path = shutil.which("openssl")
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("openssl is not installed")
    result = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
