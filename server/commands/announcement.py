"""announce: what was chosen at the start, where the server is, and how to call it."""

import logging
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.client.log_format import LogFormat
from engine.protocol import EngineInfo
from server.commands.listener import UNIX_SCHEME, is_for_this_machine
from server.config import ServerConfig

if TYPE_CHECKING:
    from server.text_model import TextModel

logger = logging.getLogger(__name__)

_STORY = "Tell me a story about a river."
_CHAT = ("/v1/chat/completions", f'{{"messages": [{{"role": "user", "content": "{_STORY}"}}], "stream": true}}')
_COMPLETION = ("/v1/completions", '{"prompt": "A headrace is", "max_tokens": 64, "stream": true}')


def announce(infos: Mapping[str, EngineInfo], text_model: "TextModel", url: str, config: ServerConfig) -> None:
    """Log the choices, and write a command to paste to stderr. infos: of the loaded models, by their names."""
    for name, info in infos.items():
        of = f"{name}: " if len(infos) > 1 else ""
        for note in info.notes:
            logger.info("%s%s", of, note)
        for warning in info.warnings:
            logger.warning("%s%s", of, warning)
    has_key = bool(config.api_key or config.api_keys_file)
    if not has_key and config.network.uds is None and not is_for_this_machine(config.host):
        logger.warning("there is no key: whoever reaches %s may use the server; set HEADRACE_API_KEY", config.host)
    if config.log_format is LogFormat.JSON:  # whoever reads the lines expects no others
        logger.info("ready at %s", url)
        return
    command = _command(url, *(_CHAT if text_model.chat is not None else _COMPLETION), has_key=has_key)
    page = "" if url.startswith(UNIX_SCHEME) else f"Chat in a browser: {url}/\n"
    sys.stderr.write(f"\nheadrace is ready at {url}\n{page}Over the API:\n\n  {command}\n\n")
    sys.stderr.flush()


def _command(url: str, path: str, body: str, *, has_key: bool) -> str:
    to_socket = ""
    if url.startswith(UNIX_SCHEME):
        to_socket, url = f"--unix-socket {shlex.quote(url.removeprefix(UNIX_SCHEME))} ", "http://localhost"
    key = '-H "authorization: Bearer YOUR_KEY" ' if has_key else ""  # never the key: logs are read by many
    return f"curl -N {to_socket}{url}{path} {key}-H 'content-type: application/json' -d '{body}'"
