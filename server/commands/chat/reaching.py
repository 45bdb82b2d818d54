"""What the commands of the terminal are told of a server: where it is, its key, and who vouches for its certificate."""

import argparse
import contextlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from engine.errors import OptionError
from server.commands.chat.client import ChatClient
from server.commands.chat.server import DEFAULT_URL, is_url, runs_here, started
from server.commands.options import CLIENT_KEY_VARIABLE

_CA_VARIABLE = "SSL_CERT_FILE"  # OpenSSL's own


def add_server(parser: argparse.ArgumentParser) -> None:
    """Options of a command that may start a server."""
    parser.add_argument(
        "where",
        nargs="?",
        metavar="MODEL|URL",
        help="A model to serve for this, or the address of a server that runs "
        f"(default: the one at {DEFAULT_URL}, else the demo model).",
    )
    _add_trust(parser)
    parser.add_argument("--served-model", metavar="NAME", help="Which of the server's models (default: its first).")


def add_url(parser: argparse.ArgumentParser) -> None:
    """Options of a command that needs a server that runs."""
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL", help=f"Server (default: {DEFAULT_URL}).")
    _add_trust(parser)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help=f"File with the server's key; {CLIENT_KEY_VARIABLE} may have it too.",
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help=f"PEM file of the authority that signed the server's certificate; {_CA_VARIABLE} may name it too "
        "(default: the public authorities).",
    )


@contextlib.contextmanager
def reached(namespace: argparse.Namespace) -> Iterator[ChatClient]:
    """A client of the server that is named, runs here, or is started. Raises OptionError and StartupError."""
    with contextlib.ExitStack() as stack:
        url = namespace.where
        if url is None and runs_here():
            url = DEFAULT_URL
        elif url is None or not is_url(url):
            url = stack.enter_context(started(url))
        yield stack.enter_context(_client(url, namespace))


def running(namespace: argparse.Namespace) -> ChatClient:
    """A client of a server that runs. Raises OptionError."""
    if not is_url(namespace.url):
        raise OptionError(f"URL must begin with http:// or https://, not {namespace.url!r}")
    return _client(namespace.url, namespace)


def _client(url: str, namespace: argparse.Namespace) -> ChatClient:
    key, source = _key(namespace.key_file)
    return ChatClient(url, key, key_source=source, authorities=_authorities(namespace.ca_file))


def _key(file: str | None) -> tuple[str | None, str]:
    """The key, and what to call where it comes from. Raises OptionError."""
    if file is None:
        return os.environ.get(CLIENT_KEY_VARIABLE), CLIENT_KEY_VARIABLE
    try:
        return Path(file).read_text().strip(), f"--key-file {file}"
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--key-file {file}: {getattr(error, 'strerror', None) or 'it is no text'}") from None


def _authorities(option: str | None) -> ssl.SSLContext | None:
    """None for the public ones. Raises OptionError."""
    file = option or os.environ.get(_CA_VARIABLE)
    if not file:
        return None
    name = f"--ca-file {file}" if option else f"{_CA_VARIABLE}={file}"
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise OptionError(f"{name} has no certificate in PEM form") from None
    except OSError as error:
        raise OptionError(f"{name}: {error.strerror}") from None
