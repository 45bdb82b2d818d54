"""The server that a conversation starts is its own, whatever the variables of another one say."""

import pytest

from server.commands.chat.server import _without_listening

pytestmark = pytest.mark.fast


def test_only_what_makes_the_model_is_taken_over() -> None:
    ours = {"HOME": "/home/x", "HEADRACE_CACHE": "/cache", "HEADRACE_THREADS": "2", "HEADRACE_QUANTIZATION": "int4"}
    others = {
        "HEADRACE_CONFIG": "server.yaml",
        "HEADRACE_API_KEY": "key",
        "HEADRACE_API_KEYS_FILE": "keys.yaml",
        "HEADRACE_UDS": "/run/headrace.sock",
        "HEADRACE_SSL_CERTFILE": "cert.pem",
        "HEADRACE_HOST": "0.0.0.0",
        "HEADRACE_DATA_DIR": "/data",
    }
    assert _without_listening({**ours, **others}) == ours
