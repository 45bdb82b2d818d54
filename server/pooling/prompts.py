"""Prompts that a pooling model puts in front of inputs, selected by prompt_name or input_type."""

from engine.errors import InvalidRequest
from engine.protocol import PoolingInfo
from server.schemas.base import quote

# Input types of other services, with the names that models have for the same prompt, the likeliest first.
_QUERIES = ("query", "search_query", "retrieval.query", "s2p_query")
_PASSAGES = ("document", "passage", "search_document", "retrieval.passage", "corpus", "text")
_OTHERS = (
    ("classification",),
    ("clustering", "separation"),
    ("similarity", "text-matching", "sts", "s2s"),
)
_ALIKE = {name: group for group in (_QUERIES, _PASSAGES, *_OTHERS) for name in group}


def prompt_text(info: PoolingInfo, prompt_name: str | None, input_type: str | None) -> str:
    """Return the prompt to put in front of inputs, "" for none. Raises InvalidRequest if the model has no prompt
    for `prompt_name` or `input_type`."""
    if prompt_name is not None:
        if prompt_name not in info.prompts:
            raise InvalidRequest(
                f"prompt_name is {quote(prompt_name)}; this model {_prompts(info)}", param="prompt_name"
            )
        return info.prompts[prompt_name]
    if input_type is not None and info.prompts:
        return _text_for(info, input_type)
    return "" if info.default_prompt is None else info.prompts.get(info.default_prompt, "")


def _text_for(info: PoolingInfo, input_type: str) -> str:
    wanted = input_type.lower()
    for name in (input_type, wanted, *_ALIKE.get(wanted, ())):
        if name in info.prompts:
            return info.prompts[name]
    if wanted in _PASSAGES and any(name in info.prompts for name in _QUERIES):
        return ""  # a model with a prompt only for queries takes passages as they are
    raise InvalidRequest(f"input_type is {quote(input_type)}; this model {_prompts(info)}", param="input_type")


def _prompts(info: PoolingInfo) -> str:
    return f"has prompts for {', '.join(map(repr, info.prompts))}" if info.prompts else "has no prompts"
