"""Request fields that this server does not honor: refused, or listed as ignored. Nothing is ignored silently."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import quote


def _neutral(*values: object) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(each) and value == each for each in values)


def _never(_value: Any) -> bool:
    return False


# Fields that would change the answer, with the values (besides null and []) that have no effect
_UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    "audio": _never,
    "best_of": _neutral(1),  # on chat; completions check their own
    "chat_template": _never,  # a client's template is code, which is not run
    "documents": _never,
    "echo": _neutral(False),  # on chat
    "function_call": _neutral("none", "auto"),  # on completions, which have no tools
    "functions": _never,  # on completions
    "logits_processors": _never,
    "max_completion_tokens": _never,  # on completions, whose limit is max_tokens
    "mm_processor_kwargs": _never,
    "modalities": _neutral(["text"]),
    "moderation": _never,
    "prediction": _never,  # on completions
    "prompt_embeds": _never,
    "reasoning_effort": _never,  # on completions
    "repetition_detection": _never,
    "suffix": _neutral(""),  # on chat
    "thinking_token_budget": _never,  # on completions
    "tool_choice": _neutral("none", "auto"),  # on completions
    "tools": _never,  # on completions
    "top_logprobs": _neutral(0),  # on completions, which count them in logprobs
    "truncate_prompt_tokens": _never,  # on /tokenize, which shows the whole text
    "web_search_options": _never,
}

# Fields that cannot change the text, with the values that have no effect
_IGNORED: Mapping[str, Callable[[Any], bool]] = {
    "metadata": _neutral({}),
    "parallel_tool_calls": _neutral(True, False),  # on completions
    "prompt_cache_key": _never,
    "prompt_cache_options": _never,
    "prompt_cache_retention": _never,
    "safety_identifier": _never,
    "store": _neutral(False),
    "stream_options.include_obfuscation": _neutral(False),
    "user": _never,
    "verbosity": _never,
}

# Types of some fields in OpenAI's API. Another type is a client's error, even if the value is not used.
_TYPES: Mapping[str, tuple[type, str]] = {
    "metadata": (dict, "an object"),
    "parallel_tool_calls": (bool, "true or false"),
    "prompt_cache_key": (str, "a string"),
    "safety_identifier": (str, "a string"),
    "store": (bool, "true or false"),
    "user": (str, "a string"),
}

# Fields of chats that have another name in text completions
_TEXT_NAMES: Mapping[str, str] = {"max_completion_tokens": "max_tokens", "top_logprobs": "logprobs"}


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """Fields of a protocol that are not honored.

    unsupported: fields that would change the answer. ignored: fields that cannot. Both are by their paths without
    indices, with a test for values that have no effect.
    """

    unsupported: Mapping[str, Callable[[Any], bool]]
    ignored: Mapping[str, Callable[[Any], bool]]
    types: Mapping[str, tuple[type, str]]
    other_names: Mapping[str, str] = field(default_factory=dict)  # names of fields in text completions


OPENAI_PARAMETERS = ParameterTable(_UNSUPPORTED, _IGNORED, _TYPES, _TEXT_NAMES)
MESSAGES_PARAMETERS = ParameterTable(  # Anthropic's
    unsupported={"container": _never, "mcp_servers": _never},
    ignored={
        "betas": _neutral([]),
        "billing_policy": _never,
        "compaction": _never,
        "context_management": _never,
        "diagnostics": _never,
        "fallback_credit_token": _never,
        "fallbacks": _never,
        "inference_geo": _never,
        "messages.content.caller": _neutral({"type": "direct"}),
        "messages.content.citations": _neutral([]),
        "messages.content.toolset_name": _never,
        "metadata": _neutral({}),
        "output_config.task_budget": _never,
        "speed": _neutral("standard"),
        "system.citations": _neutral([]),
        "thinking.block_binding": _never,
        "tools.allowed_callers": _neutral(["direct"]),
        "tools.defer_loading": _neutral(False),  # true would hide the tool until Anthropic's tool search finds it
        "tools.input_examples": _neutral([]),
        "user_profile_id": _never,
        "workspace_id": _never,
    },
    types={"context_management": (dict, "an object"), "metadata": (dict, "an object")},
)
# Options of loading and computing a model, which the server's own options determine
_OLLAMA_LOADING = (
    "draft_num_predict",
    "embedding_only",
    "f16_kv",
    "logits_all",
    "low_vram",
    "main_gpu",
    "num_batch",
    "num_ctx",
    "num_gpu",
    "num_keep",
    "num_thread",
    "numa",
    "use_mlock",
    "use_mmap",
    "vocab_only",
)
OLLAMA_PARAMETERS = ParameterTable(
    unsupported={
        "context": _never,  # an earlier conversation, as token ids
        "options.tfs_z": _neutral(1.0, 1),
        "template": _neutral(""),  # a client's template is code, which is not run
    },
    ignored={
        **{f"options.{name}": _never for name in _OLLAMA_LOADING},
        "keep_alive": _never,  # if models stay loaded
        "options.repeat_last_n": _neutral(-1),  # penalties consider the whole text
        "shift": _neutral(False),  # requests that do not fit the context are refused
        "truncate": _neutral(False),
    },
    types={},
)
POOLING_PARAMETERS = ParameterTable(
    unsupported={
        "chat_template": _never,  # a request's own template is code that we do not run
        "embed_dtype": _neutral("float32"),
        "embedding_types": _neutral(["float"]),  # Cohere's
        "endianness": _neutral("native", "little"),
        "images": _never,
        "inputs": _never,  # Cohere's, of texts and images
        "instruction": _never,
        "items": _never,
        "late_chunking": _neutral(False),  # Jina's
        "max_chunks_per_doc": _never,  # Cohere's, of its first version
        "media_io_kwargs": _never,
        "mm_processor_kwargs": _never,
        "padding": _neutral("do_not_pad"),
        "rank_fields": _never,
        "stream": _neutral(False),
        "tools": _never,
    },
    ignored={"cache_salt": _never, "metadata": _neutral({}), "request_id": _never, "user": _never},
    types={"user": (str, "a string")},
)

_MAX_LISTED = 32
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_INDEX = re.compile(r"\[\d+\]")


def ignored_parameters(
    extra: Mapping[str, Any], *, strict: bool, table: ParameterTable = OPENAI_PARAMETERS
) -> list[str]:
    """Return the names of the fields in `extra` that are not honored and cannot change the text.

    Raises UnsupportedParameter for a field that would change the text, and InvalidRequest for a field of a wrong type
    and, if `strict`, for an unknown field.
    """
    ignored = []
    for name, value in extra.items():
        key = _INDEX.sub("", name)
        if key in table.unsupported:
            if not (value is None or value == [] or table.unsupported[key](value)):
                text_name = table.other_names.get(key)
                remedy = "leave it out" if text_name is None else f"text completions call it {text_name}"
                raise UnsupportedParameter(f"{name} is not supported by this endpoint; {remedy}", param=name)
        elif key in table.ignored:
            _check_type(name, value, table)
            if not (value is None or table.ignored[key](value)):
                ignored.append(name)
        else:
            if strict:
                refuse_unknown([name])
            ignored.append(name)
    return ignored


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise InvalidRequest for the first name, if any, since --strict-parameters allows no unknown field."""
    for name in names:
        raise InvalidRequest(
            f"{name} is not a parameter of this endpoint, and the server was started with --strict-parameters",
            param=name,
            code="unknown_parameter",
        )


def _check_type(name: str, value: Any, table: ParameterTable) -> None:
    kind, words = table.types.get(name, (object, ""))
    if value is not None and not isinstance(value, kind):
        raise InvalidRequest(f"{name} is {quote(value)}; it must be {words}", param=name)


def ignored_header(names: list[str]) -> dict[str, str]:
    """Return the response header that lists `names`, without characters that are unsafe in headers."""
    if not names:
        return {}
    listed = [_UNSAFE.sub("?", name[:64]) for name in names[:_MAX_LISTED]]
    if len(names) > _MAX_LISTED:
        listed.append("...")
    return {"x-ignored-parameters": ", ".join(listed)}
