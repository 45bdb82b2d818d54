"""`headrace replay`: the command, from its files to its exit code."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from engine.command_io.program import as_typed
from engine.errors import OptionError, StartupError
from server.commands.chat.client import ChatClient
from server.commands.chat.connecting import connect_or_start
from server.commands.chat.server import is_url
from server.commands.options.definitions import OPTIONS
from server.commands.replay.answers import Answer, NotReplayable, read_answer
from server.commands.replay.arguments import replay_parser
from server.commands.replay.comparing import Difference, DifferingPart, differing_parts, find_differences
from server.commands.replay.report import ReplayResult, result_text

# Fields of a request about how its answer is sent and kept, not about what it says.
_DELIVERY = ("stream", "stream_options", "resumable", "return_progress", "background", "store")
_NAMES_MODELS = ("served_model_name", "lora_modules")
_NEUTRAL_TEMPERATURE = 1.0  # of a server that does not say its default


def run(argv: Sequence[str]) -> int:
    """Replay an answer as `argv` says; return 0 if it is the same, 1 if it differs, 2 if it could not be replayed.
    Raises OptionError; exits for --help."""
    namespace = replay_parser().parse_args(argv)
    try:
        result = _replay(namespace)
    except OptionError:
        raise
    except StartupError as error:  # 1 says that the answers differ
        sys.stderr.write(f"headrace: {as_typed(str(error))}\n")
        return 2
    shown = msgspec.json.format(msgspec.json.encode(result)).decode() if namespace.json else result_text(result)
    sys.stdout.write(f"{shown}\n")
    return 0 if result.is_same else 1


def _replay(namespace: argparse.Namespace) -> ReplayResult:
    stored = read_answer(_read(namespace.response), namespace.response)
    request = _request(namespace.request, stored)
    with connect_or_start(namespace, _serve_arguments(namespace, request), announce=_announce) as client:
        card = _card(client, request)
        _check_determined(request, card, namespace.request)
        computed = read_answer(client.post(stored.path, request), "the new answer")
        return _compared(stored, computed, card, client, request)


def _announce(server: str) -> None:
    sys.stderr.write(f"compares with {server}\n")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise NotReplayable(f"cannot read {path}: {error.strerror}") from None


def _request(path: str, stored: Answer) -> dict[str, Any]:
    """Read the body that the stored answer belongs to, without what only says how the answer is sent."""
    try:
        body = msgspec.json.decode(_read(path))
    except msgspec.DecodeError as error:
        raise NotReplayable(f"{path} is not JSON ({error}); give the body of a request") from None
    if not isinstance(body, dict):
        raise NotReplayable(f"{path} is not a JSON object; give the body of a request")
    if stored.prompt_field not in body:
        raise NotReplayable(
            f"{path} has no {stored.prompt_field}, but the answer is one of {stored.path}; give the request that it "
            "belongs to"
        )
    if body.get("conversation"):
        raise NotReplayable(
            f"{path} continues a conversation, to which a replay would be added; give the conversation's items in input"
        )
    request = {name: value for name, value in body.items() if name not in _DELIVERY}
    return request | {"store": False} if stored.path == "/v1/responses" else request


def _serve_arguments(namespace: argparse.Namespace, request: dict[str, Any]) -> list[str]:
    """Return the arguments for a new server: the given options, and the name by which the request calls its model.

    Raises OptionError if options are given for a server that runs already.
    """
    given = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
    arguments = []
    for name, value in given.items():
        flag = OPTIONS[name].flag
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            arguments += [f"{flag}={each}" for each in (value if isinstance(value, list) else [value])]
    where = namespace.where
    if arguments and (where is None or is_url(where)):
        server = "a server that runs" if where is None else where
        raise OptionError(f"{arguments[0]} is for a new server, not for {server}; name a MODEL to start one for")
    if isinstance(model := request.get("model"), str) and not any(name in given for name in _NAMES_MODELS):
        arguments.append(f"--served-model-name={model}")
    return arguments


def _card(client: ChatClient, request: dict[str, Any]) -> dict[str, Any]:
    """Return what the server says of the request's model, by default its first one."""
    name = request.get("model") or next(iter(client.chat_models()), None)
    if name is None:  # the server refuses the request and says why
        return {}
    own = client.get(f"/v1/models/{quote(str(name), safe='')}").get("headrace")
    return own if isinstance(own, dict) else {}


def _check_determined(request: dict[str, Any], card: dict[str, Any], path: str) -> None:
    """Raise NotReplayable for a request whose tokens are drawn without a seed."""
    temperature, source = request.get("temperature"), "its temperature"
    if temperature is None:
        defaults = card.get("default_sampling_params") or {}
        temperature, source = defaults.get("temperature", _NEUTRAL_TEMPERATURE), "the server's default temperature"
    if request.get("seed") is None and temperature != 0 and not request.get("use_beam_search"):
        shown = f"{temperature:g}" if isinstance(temperature, int | float) else repr(temperature)
        raise NotReplayable(
            f"{path} has no seed, and {source} is {shown}, so each answer is drawn anew; only answers to "
            "requests with a seed or with temperature 0 can be replayed"
        )


def _compared(
    stored: Answer, computed: Answer, card: dict[str, Any], client: ChatClient, request: dict[str, Any]
) -> ReplayResult:
    named = {"model": request["model"]} if request.get("model") else {}

    def tokens_of(text: str) -> list[int]:
        body = {**named, "prompt": text, "add_special_tokens": False}
        return list(msgspec.json.decode(client.post("/tokenize", body))["tokens"])

    def text_of(ids: list[int]) -> str:
        return str(msgspec.json.decode(client.post("/detokenize", {**named, "tokens": ids}))["prompt"])

    fingerprint = computed.fingerprint or card.get("system_fingerprint")
    parts: list[DifferingPart] = []
    if stored.fingerprint and fingerprint:
        parts = differing_parts(stored.fingerprint, fingerprint)
    differences: list[Difference] = list(find_differences(stored, computed, tokens_of, text_of))
    return ReplayResult(
        is_same=not differences,
        num_tokens=computed.num_tokens,
        has_logprobs=any(part.tokens for part in computed.parts),
        differences=differences,
        stored_fingerprint=stored.fingerprint,
        computed_fingerprint=fingerprint,
        differing_parts=parts,
    )
