"""Certificates: the TLS context of new connections, replaced when the certificate files change."""

import asyncio
import logging
import os
import ssl
import stat
from pathlib import Path
from typing import Any

from engine.errors import StartupError
from server.config.network import CertReqs, NetworkConfig

logger = logging.getLogger(__name__)

SUBJECT_STATE = "client_subject"  # in a scope's state: the subject of the client's certificate, or None

_POLL_S = 1.0
_VERIFY = {
    CertReqs.NONE: ssl.CERT_NONE,
    CertReqs.OPTIONAL: ssl.CERT_OPTIONAL,
    CertReqs.REQUIRED: ssl.CERT_REQUIRED,
}
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """Holds the TLS context for new connections. An open connection keeps the context that it started with."""

    def __init__(self, config: NetworkConfig) -> None:
        """Load the files. Raises StartupError if they cannot be used."""
        self._config = config
        self._stamp = self._look()
        self.context = make_context(config)

    def reload(self) -> None:
        """Load the files again. If they cannot be used, the error is logged and the last context is kept."""
        self._stamp = self._look()
        try:
            self.context = make_context(self._config)
        except StartupError as error:
            logger.error("the certificate stays as it was: %s", error)
        else:
            logger.info("new connections get the certificate that is now in %s", self._config.ssl_certfile)

    async def watch(self, poll_s: float = _POLL_S) -> None:
        """Reload once changed files have stayed unchanged for one poll, since they are written one after another."""
        last = self._stamp
        while True:
            await asyncio.sleep(poll_s)
            now = self._look()
            if now == last != self._stamp:
                self.reload()
            last = now

    def _look(self) -> _Stamp:
        """Return inode, size and modification time of each file; None for a missing file."""
        config = self._config
        return tuple(_stamp(path) for path in (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs) if path)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def make_context(config: NetworkConfig) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and later with the certificate of the options. Raises StartupError if a file of the
    options cannot be used."""
    assert config.ssl_certfile is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load_own(context, config.ssl_certfile, config.ssl_keyfile, config.ssl_keyfile_password)
    if config.ssl_ca_certs is not None:
        _load_authorities(context, config.ssl_ca_certs)
    context.verify_mode = _VERIFY[config.cert_reqs]
    return context


def _load_own(context: ssl.SSLContext, certfile: str, keyfile: str | None, password: str | None) -> None:
    if "-----BEGIN CERTIFICATE-----" not in _read("--ssl-certfile", certfile):
        raise StartupError(f"--ssl-certfile {certfile} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    flag, path = ("--ssl-certfile", certfile) if keyfile is None else ("--ssl-keyfile", keyfile)
    key = _read(flag, path)
    if "PRIVATE KEY-----" not in key:
        remedy = "; name the key's file with --ssl-keyfile" if keyfile is None else ""
        raise StartupError(f"{flag} {path} has no private key in PEM form (-----BEGIN PRIVATE KEY-----){remedy}")
    is_encrypted = "ENCRYPTED" in key
    if is_encrypted and password is None:
        raise StartupError(f"the key in {path} is encrypted; give its password in HEADRACE_SSL_KEYFILE_PASSWORD")
    try:
        context.load_cert_chain(certfile, keyfile, lambda: password or "")  # else OpenSSL asks on the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartupError(f"the key in {path} is not that of the certificate in {certfile}") from error
        hint = "; is its password right?" if is_encrypted else ""
        raise StartupError(
            f"the certificate in {certfile} or its key in {path} cannot be read{hint} ({error})"
        ) from error
    except (OSError, ValueError) as error:  # the file is gone, or the password is too long for OpenSSL
        raise StartupError(f"the certificate in {certfile} or its key in {path} cannot be read ({error})") from error


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _read("--ssl-ca-certs", path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartupError(f"--ssl-ca-certs {path} has no certificates in PEM form ({error})") from error
    except OSError as error:  # the file is gone
        raise StartupError(f"cannot read --ssl-ca-certs {path}: {error.strerror}") from error


def _read(flag: str, path: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would block the server until something is written
            raise StartupError(f"{flag} {path} is not a regular file; name a file in PEM form")
        return Path(path).read_text(encoding="latin-1")
    except OSError as error:
        raise StartupError(f"cannot read {flag} {path}: {error.strerror}") from error


_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "countryName": "C",
}


def subject_of(certificate: dict[str, Any] | None) -> str | None:
    """Return the subject of a verified client certificate, such as "CN=alice,O=Example"; None if there is none.

    Spaces, and characters that could end a value or a line, are escaped as in RFC 4514.
    """
    if not certificate:
        return None
    names = [pair for group in certificate.get("subject", ()) for pair in group]
    return ",".join(f"{_SHORT.get(kind, kind)}={_escape(value)}" for kind, value in reversed(names))


def _escape(value: str) -> str:
    return "".join(
        char if char.isprintable() and char not in ' ,+"\\<>;=#' else "".join(f"\\{b:02x}" for b in char.encode())
        for char in value
    )
