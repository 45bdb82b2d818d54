"""Connections of the terminal commands to a running server or a new one, with key and trusted CAs."""

import argparse
import contextlib
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.errors import OptionError
from server.commands.chat.client import ChatClient
from server.commands.chat.server import DEFAULT_URL, is_running, is_url, start_server
from server.commands.options.definitions import CLIENT_KEY_VARIABLE, OPTIONS

CA_VARIABLE = "SSL_CERT_FILE"  # OpenSSL's own


@contextlib.contextmanager
def connect_or_start(
    namespace: argparse.Namespace, arguments: Sequence[str] = (), *, announce: Callable[[str], None] = lambda _: None
) -> Iterator[ChatClient]:
    """Yield a client of the server at a given URL, or of a new server for a given model. With neither, use the server
    that runs on this machine, else start one.

    arguments: for `headrace serve`, if a new server starts. announce: called with the name of the server that was
    chosen, before it is started.

    Raises OptionError for an invalid key or CA file, StartupError if the new server does not start.
    """
    with contextlib.ExitStack() as stack:
        url = namespace.where
        if url is None and is_running():
            url = DEFAULT_URL
        if url is not None and is_url(url):
            announce(f"the server at {url}")
        else:
            model = url or os.environ.get(OPTIONS["model"].variable) or "the demo model"
            reason = f", since none runs at {DEFAULT_URL}" if url is None else ""
            announce(f"a new server for {model}{reason}")
            url = stack.enter_context(start_server(url, arguments))
        yield stack.enter_context(_client(url, namespace))


def connect(namespace: argparse.Namespace) -> ChatClient:
    """Return a client of the server at the given URL. Raises OptionError for an invalid URL, key file or CA file."""
    if not is_url(namespace.url):
        raise OptionError(f"URL must begin with http:// or https://, not {namespace.url!r}")
    return _client(namespace.url, namespace)


def _client(url: str, namespace: argparse.Namespace) -> ChatClient:
    key, source = client_key(namespace.key_file)
    return ChatClient(url, key, key_source=source, authorities=trusted_authorities(namespace.ca_file))


def client_key(file: str | None) -> tuple[str | None, str]:
    """Return the key, and the name of its source for error messages. Raises OptionError if the file is not readable
    text."""
    if file is None:
        return os.environ.get(CLIENT_KEY_VARIABLE), CLIENT_KEY_VARIABLE
    try:
        return Path(file).read_text().strip(), f"--key-file {file}"
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--key-file {file}: {getattr(error, 'strerror', None) or 'it is not text'}") from None


def trusted_authorities(option: str | None) -> ssl.SSLContext | None:
    """Return an SSL context with the CAs of --ca-file or SSL_CERT_FILE; None for the public CAs. Raises OptionError if
    the file cannot be used."""
    file = option or os.environ.get(CA_VARIABLE)
    if not file:
        return None
    name = f"--ca-file {file}" if option else f"{CA_VARIABLE}={file}"
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise OptionError(f"{name} has no certificate in PEM form") from None
    except OSError as error:
        raise OptionError(f"{name}: {error.strerror}") from None
