"""Templates that GGUF files leave out: special tokens around the texts of encoders, and chat templates by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from models.errors import CheckpointError

# Chat templates that files name in place of their text.
NAMED_TEMPLATES = {
    "rwkv-world": (
        "{%- for message in messages -%}"
        "{%- set name = {'system': 'System', 'user': 'User', 'assistant': 'Assistant'}[message.role] -%}"
        "{{- name + ': ' + message.content | trim + '\n\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
    )
}


def add_encoder_template(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], vocabulary: Mapping[str, int], path: Path, *, is_roberta: bool
) -> None:
    """Make the tokenizer encode [CLS] text [SEP], and pairs as [CLS] text [SEP] other [SEP] with token types 0 and 1.

    is_roberta: encode <s> text </s>, and pairs as <s> text </s></s> other </s> without token types.
    """
    names = ("<s>", "</s>") if is_roberta else ("[CLS]", "[SEP]")
    first = special_token(metadata, ("cls", "bos"), names[0], vocabulary, path)
    last = special_token(metadata, ("seperator", "separator", "eos"), names[1], vocabulary, path)  # sic
    if is_roberta:
        single, other = f"{first} $A {last}", f"{last} $B {last}"
    else:
        single, other = f"{first}:0 $A:0 {last}:0", f"$B:1 {last}:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=f"{single} {other}",
        special_tokens=[(token, vocabulary[token]) for token in dict.fromkeys((first, last))],
    )


def special_token(
    metadata: Mapping[str, Any], roles: Sequence[str], default: str, vocabulary: Mapping[str, int], path: Path
) -> str:
    """Return the first token that the metadata state for one of `roles` (such as "cls"), else the token `default`.

    Raises CheckpointError if the vocabulary lacks `default`, too.
    """
    by_id: dict[object, str] = {token_id: token for token, token_id in vocabulary.items()}
    for role in roles:
        token = by_id.get(metadata.get(f"tokenizer.ggml.{role}_token_id"))
        if token is not None:
            return token
    if default not in vocabulary:
        raise CheckpointError(f"{path} names no {roles[0]} token and has no {default}; convert the model again")
    return default
