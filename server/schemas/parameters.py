"""Request fields that this server does not honor. Each is either refused or listed as ignored in a response header."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import quote

_NEVER: tuple[object, ...] = ()  # no value is without effect

# Fields that would change the answer, with the values (besides null and []) that have no effect
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": _NEVER,
    "best_of": (1,),  # on chat; completions check their own
    "chat_template": _NEVER,  # a client's template is code, which is not run
    "documents": _NEVER,
    "echo": (False,),  # on chat
    "function_call": ("none", "auto"),  # on completions, which have no tools
    "functions": _NEVER,  # on completions
    "logits_processors": _NEVER,
    "max_completion_tokens": _NEVER,  # on completions, whose limit is max_tokens
    "mm_processor_kwargs": _NEVER,
    "modalities": (["text"],),
    "moderation": _NEVER,
    "prediction": _NEVER,  # on completions
    "prompt_embeds": _NEVER,
    "reasoning_effort": _NEVER,  # on completions
    "repetition_detection": _NEVER,
    "suffix": ("",),  # on chat
    "thinking_token_budget": _NEVER,  # on completions
    "tool_choice": ("none", "auto"),  # on completions
    "tools": _NEVER,  # on completions
    "top_logprobs": (0,),  # on completions, which count them in logprobs
    "truncate_prompt_tokens": _NEVER,  # on /tokenize, which shows the whole text
    "web_search_options": _NEVER,
}

# Fields that cannot change the text, with the values that have no effect
_IGNORED: Mapping[str, tuple[object, ...]] = {
    "messages.content.prompt_cache_breakpoint": _NEVER,  # every prefix is cached
    "metadata": ({},),
    "parallel_tool_calls": (True, False),  # on completions
    "prompt_cache_key": _NEVER,
    "prompt_cache_options": _NEVER,
    "prompt_cache_retention": _NEVER,
    "safety_identifier": _NEVER,
    "store": (False,),
    "stream_options.include_obfuscation": (False,),
    "user": _NEVER,
    "verbosity": _NEVER,
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

    unsupported: fields that would change the answer, and are refused. ignored: fields that cannot change it. Keys are
    paths without indices. Values: the field's harmless values besides null, which are neither refused nor listed.
    """

    unsupported: Mapping[str, tuple[object, ...]]
    ignored: Mapping[str, tuple[object, ...]]
    types: Mapping[str, tuple[type, str]]
    other_names: Mapping[str, str] = field(default_factory=dict)  # by chat field, its name in text completions


OPENAI_PARAMETERS = ParameterTable(_UNSUPPORTED, _IGNORED, _TYPES, _TEXT_NAMES)
MESSAGES_PARAMETERS = ParameterTable(  # Anthropic's
    unsupported={"container": _NEVER, "mcp_servers": _NEVER},
    ignored={
        "betas": ([],),
        "billing_policy": _NEVER,
        "compaction": _NEVER,
        "context_management": _NEVER,
        "diagnostics": _NEVER,
        "fallback_credit_token": _NEVER,
        "fallbacks": _NEVER,
        "inference_geo": _NEVER,
        "messages.content.caller": ({"type": "direct"},),
        "messages.content.citations": ([],),
        "messages.content.toolset_name": _NEVER,
        "metadata": ({},),
        "output_config.task_budget": _NEVER,
        "speed": ("standard",),
        "system.citations": ([],),
        "thinking.block_binding": _NEVER,
        "tools.allowed_callers": (["direct"],),
        "tools.defer_loading": (False,),  # true would hide the tool until Anthropic's tool search finds it
        "tools.input_examples": ([],),
        "user_profile_id": _NEVER,
        "workspace_id": _NEVER,
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
        "context": _NEVER,  # an earlier conversation, as token ids
        "options.tfs_z": (1.0, 1),
        "template": ("",),  # a client's template is code, which is not run
    },
    ignored={
        **{f"options.{name}": _NEVER for name in _OLLAMA_LOADING},
        "keep_alive": _NEVER,  # if models stay loaded
        "options.repeat_last_n": (-1,),  # penalties consider the whole text
        "shift": (False,),  # requests that do not fit the context are refused
        "truncate": (False,),
    },
    types={},
)
POOLING_PARAMETERS = ParameterTable(
    unsupported={
        "chat_template": _NEVER,  # a request's own template is code that we do not run
        "embed_dtype": ("float32",),
        "embedding_types": (["float"],),  # Cohere's
        "endianness": ("native", "little"),
        "images": _NEVER,
        "inputs": _NEVER,  # Cohere's, of texts and images
        "instruction": _NEVER,
        "items": _NEVER,
        "late_chunking": (False,),  # Jina's
        "max_chunks_per_doc": _NEVER,  # Cohere's, of its first version
        "media_io_kwargs": _NEVER,
        "mm_processor_kwargs": _NEVER,
        "padding": ("do_not_pad",),
        "rank_fields": _NEVER,
        "stream": (False,),
        "tools": _NEVER,
    },
    ignored={"cache_salt": _NEVER, "metadata": ({},), "request_id": _NEVER, "user": _NEVER},
    types={"user": (str, "a string")},
)
DECISION_PARAMETERS = ParameterTable(
    unsupported={
        "assets": _NEVER,  # System One's images
        "images": _NEVER,
        "stream": (False,),
        "tools": _NEVER,
    },
    ignored={
        "metadata": ({},),
        "prompt_cache_key": _NEVER,
        "prompt_cache_options": _NEVER,
        "safety_identifier": _NEVER,
        "user": _NEVER,
    },
    types={name: _TYPES[name] for name in ("metadata", "prompt_cache_key", "safety_identifier", "user")},
)
MODERATION_PARAMETERS = ParameterTable(
    unsupported={"stream": (False,)},
    ignored={"metadata": ({},), "safety_identifier": _NEVER, "user": _NEVER},
    types={name: _TYPES[name] for name in ("metadata", "safety_identifier", "user")},
)

_MAX_LISTED = 32
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_INDEX = re.compile(r"\[\d+\]")


def ignored_parameters(
    extra: Mapping[str, Any], *, strict: bool, table: ParameterTable = OPENAI_PARAMETERS
) -> list[str]:
    """Return the names of the fields in `extra` that are ignored because they cannot change the answer.

    Raises UnsupportedParameter for a field that would change the answer, and InvalidRequest for a field of a wrong type
    and, if `strict`, for an unknown field.
    """
    ignored, unknown = [], []
    for name, value in extra.items():
        key = _INDEX.sub("", name)
        if key in table.unsupported:
            if not (value is None or value == [] or _is_among(value, table.unsupported[key])):
                text_name = table.other_names.get(key)
                remedy = "leave it out" if text_name is None else f"text completions call it {text_name}"
                raise UnsupportedParameter(f"{name} is not supported by this endpoint; {remedy}", param=name)
        elif key in table.ignored:
            _check_type(name, value, table)
            if not (value is None or _is_among(value, table.ignored[key])):
                ignored.append(name)
        else:
            unknown.append(name)
            ignored.append(name)
    if strict:
        refuse_unknown(unknown)
    return ignored


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise InvalidRequest if there is an unknown field, which --strict-parameters does not allow."""
    if not (unknown := [*names]):
        return
    listed = ", ".join(quote(name) for name in unknown[:_MAX_LISTED]) + (", ..." if len(unknown) > _MAX_LISTED else "")
    are = "is not a parameter" if len(unknown) == 1 else "are not parameters"
    raise InvalidRequest(
        f"{listed} {are} of this endpoint, and the server was started with --strict-parameters; leave "
        f"{'it' if len(unknown) == 1 else 'them'} out, or start the server without that option",
        param=unknown[0],
        code="unknown_parameter",
    )


def _is_among(value: Any, values: tuple[object, ...]) -> bool:
    return any(type(value) is type(each) and value == each for each in values)


def _check_type(name: str, value: Any, table: ParameterTable) -> None:
    kind, words = table.types.get(name, (object, ""))
    if value is not None and not isinstance(value, kind):
        raise InvalidRequest(f"{name} is {quote(value)}; it must be {words}", param=name)


def ignored_header(names: list[str]) -> dict[str, str]:
    """Return the response header that lists the ignored parameters, with "?" for unsafe characters."""
    if not names:
        return {}
    listed = [_UNSAFE.sub("?", name[:64]) for name in names[:_MAX_LISTED]]
    if len(names) > _MAX_LISTED:
        listed.append("...")
    return {"x-ignored-parameters": ", ".join(listed)}
