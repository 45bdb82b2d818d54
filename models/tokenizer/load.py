"""Loading of a checkpoint's tokenizer, in any format, as TokenizerAssets.

BOS is decided here. The post-processor of a tokenizer.json decides whether a plain prompt begins with BOS; as in
transformers, it outranks `add_bos_token` in tokenizer_config.json. GGUF has no post-processor, so `add_bos_token` of
the assets decides. A chat template writes BOS itself if the model has one, so no BOS is added to its text.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from models.checkpoints.gguf.header import read_gguf_header
from models.config.hf_config import HFConfig, quote_value, read_json_config, read_text
from models.errors import CheckpointError, ModelError, UnsupportedModelError
from models.sources.resolve import ModelFiles
from models.system.cache_folder import cache_folder
from models.tokenizer.assets import TokenizerAssets
from models.tokenizer.cache import gguf_key, read_assets, save_assets, write_cached
from models.tokenizer.gguf import convert_gguf_tokenizer
from models.tokenizer.gguf_templates import NAMED_TEMPLATES
from models.tokenizer.growth import parts_of, read_parts
from models.tokenizer.trial import try_tokenizer

_SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MAX_FILE_BYTES = 128 << 20  # of a tokenizer.json; the largest have a quarter of it
_MAX_TOKEN_ID = 1 << 20
_CONVERTED_FILES = ("*.json", "*.model", "*.txt", "*.tiktoken")
_GGUF_ID_NAMES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
# The current name of each role, and the former one.
_GGUF_FIM_NAMES = {
    "prefix": ("fim_pre", "prefix"),
    "suffix": ("fim_suf", "suffix"),
    "middle": ("fim_mid", "middle"),
    "pad": ("fim_pad",),
    "repository": ("fim_rep",),
    "file": ("fim_sep",),
}

# Control tokens that end a text or a turn. GGUF names one EOS; the original often has several in its
# generation_config.json, which is not in the file.
_END_TOKENS = frozenset(
    {
        "<|im_end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|eot|>",
        "<end_of_turn>",
        "<|endofturn|>",
        "<|end_of_turn|>",
        "<EOT>",
        "<｜end▁of▁sentence｜>",
    }
)


def load_tokenizer_assets(
    files: ModelFiles, config: HFConfig, gguf_metadata: Mapping[str, Any] | None = None
) -> TokenizerAssets:
    """Read the tokenizer of `files`. config: the model's configuration, for eos_token_id. Raises a ModelError.

    gguf_metadata: the first GGUF file's metadata, if the caller has read it.
    """
    eos_token_ids = config.token_ids("eos_token_id")
    if files.root is None:
        path = files.gguf[0]
        metadata = read_gguf_header(path).metadata if gguf_metadata is None else gguf_metadata
        key = gguf_key(metadata, eos_token_ids)
        assets = read_assets(key)
        if assets is None:
            assets = _from_gguf(metadata, path, eos_token_ids)
            save_assets(key, assets)
        return assets
    return _from_folder(files.root, eos_token_ids)


# --- GGUF ------------------------------------------------------------------------------------------------------------


def _from_gguf(metadata: Mapping[str, Any], path: Path, eos_token_ids: list[int]) -> TokenizerAssets:
    converted = convert_gguf_tokenizer(metadata, path)
    try_tokenizer(parts_of(converted.tokenizer), str(path))
    special_tokens = {}
    for name, key in _GGUF_ID_NAMES.items():
        token_id = _gguf_id(metadata, key, path)
        if token_id is not None and token_id < len(converted.tokens):
            special_tokens[name] = converted.tokens[token_id]
    ends = [_gguf_id(metadata, name, path) for name in ("eos", "eot", "eom")]
    ends += [i for i in converted.control_ids if converted.tokens[i] in _END_TOKENS]
    bos_token = special_tokens.get("bos_token")
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        template = NAMED_TEMPLATES.get(template, template)
    return TokenizerAssets(
        tokenizer_json=converted.tokenizer.to_str().encode(),
        chat_template=_checked_template(template, str(path)),
        special_tokens=special_tokens,
        bos_token_id=None if bos_token is None else converted.tokenizer.token_to_id(bos_token),
        eos_token_ids=_unique([*eos_token_ids, *ends]),
        add_bos_token=converted.add_bos_token and bos_token is not None,
        fim_ids=_gguf_fim_ids(metadata, path, len(converted.tokens)),
    )


def _gguf_fim_ids(metadata: Mapping[str, Any], path: Path, num_tokens: int) -> dict[str, int]:
    found = {}
    for role, names in _GGUF_FIM_NAMES.items():
        ids = [_gguf_id(metadata, name, path) for name in names]
        if (token_id := next((each for each in ids if each is not None), None)) is not None and token_id < num_tokens:
            found[role] = token_id
    return found


def _gguf_id(metadata: Mapping[str, Any], name: str, path: Path) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise CheckpointError(f"{path}: {key} is {quote_value(value)}, which is not a token id; fetch the file again")
    return None if value is None or value < 0 else value  # some files have -1 for none


# --- Hugging Face layout ---------------------------------------------------------------------------------------------


def _from_folder(root: Path, eos_token_ids: list[int]) -> TokenizerAssets:
    config = _read_optional(root / "tokenizer_config.json")
    legacy = _read_optional(root / "special_tokens_map.json")
    special_tokens = {}
    for name in _SPECIAL_NAMES:
        if (text := _token_text((config if config.has(name) else legacy).raw(name))) is not None:
            special_tokens[name] = text
    tokenizer = _read_tokenizer(root)
    tokenizer.no_padding()  # some files have the settings of the batch for which they were written
    tokenizer.no_truncation()
    _add_configured_tokens(tokenizer, _listed_tokens(config), special_tokens)
    bos_token_id = _id_of(tokenizer, special_tokens.get("bos_token"))
    ends = [*eos_token_ids, *_read_optional(root / "generation_config.json").token_ids("eos_token_id")]
    return TokenizerAssets(
        tokenizer_json=tokenizer.to_str().encode(),
        chat_template=_chat_template(root, config),
        special_tokens=special_tokens,
        bos_token_id=bos_token_id,
        eos_token_ids=_unique([*ends, _id_of(tokenizer, special_tokens.get("eos_token"))]),
        add_bos_token=False,
    )


def _read_tokenizer(root: Path) -> Tokenizer:
    path = root / "tokenizer.json"
    if not path.is_file():
        return _converted(root)
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise CheckpointError(
            f"{path} has more than {_MAX_FILE_BYTES >> 20} MiB, too much for a tokenizer; fetch it again"
        )
    try:
        content = path.read_bytes()
        if (parts := read_parts(content)) is not None:
            try_tokenizer(parts, str(path))
        tokenizer = Tokenizer.from_buffer(content)
    except ModelError:
        raise
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise CheckpointError(f"{path} cannot be read ({quote_value(str(error))}); fetch it again") from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest > _MAX_TOKEN_ID:  # to_str() walks all ids up to the largest
        raise CheckpointError(
            f"{path} has a token with id {largest}; no vocabulary has more than {_MAX_TOKEN_ID}: the file is damaged; "
            "fetch it again"
        )
    return tokenizer


def _converted(root: Path) -> Tokenizer:
    """Convert the tokenizer of a folder that has only a SentencePiece model, or vocab.json and merges.txt.

    transformers takes seconds to import and to convert, so the result is cached.
    """
    cached = cache_folder() / "tokenizers" / f"{_conversion_key(root)}.json"
    if cached.is_file():
        return Tokenizer.from_file(str(cached))
    tokenizer = _convert(root)
    try_tokenizer(parts_of(tokenizer), str(root))
    write_cached(cached, tokenizer.to_str().encode())
    return tokenizer


def _conversion_key(root: Path) -> str:
    """Return the cache key: a hash of all files that a conversion reads, and of transformers' version."""
    digest = hashlib.sha256(version("transformers").encode())
    for path in sorted(path for pattern in _CONVERTED_FILES for path in root.glob(pattern)):
        digest.update(f"\0{path.name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _convert(root: Path) -> Tokenizer:
    from transformers import AutoTokenizer
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()  # it warns about attempts; the error below reports their result
    try:
        fast = AutoTokenizer.from_pretrained(str(root), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # converters of dozens of formats fail in any way, with long messages
        raise UnsupportedModelError(_explain_no_tokenizer(root)) from error
    if not hasattr(fast, "backend_tokenizer"):
        raise UnsupportedModelError(
            f"{root}: {type(fast).__name__} cannot be converted for `tokenizers`; add a tokenizer.json"
        )
    backend: Tokenizer = fast.backend_tokenizer
    return backend


def _explain_no_tokenizer(root: Path) -> str:
    models = sorted(path.name for path in root.glob("*.model"))
    if not models:
        return f"{root} has no tokenizer.json, and no other tokenizer that can be read; add the model's tokenizer.json"
    remedy = "add the model's tokenizer.json"
    if find_spec("sentencepiece") is None:
        remedy += ", or install the library that reads the other: pip install sentencepiece"
    return f"{root} has no tokenizer.json, and its {models[0]} cannot be converted; {remedy}"


def _listed_tokens(config: HFConfig) -> list[AddedToken]:
    """Return the added tokens that `added_tokens_decoder` lists, in order of their ids."""
    listed = config.raw("added_tokens_decoder") or {}
    try:
        return [
            AddedToken(entry["content"], **{flag: entry[flag] for flag in _TOKEN_FLAGS if flag in entry})
            for _, entry in sorted(listed.items(), key=lambda item: int(item[0]))
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{config.source}: added_tokens_decoder is {quote_value(listed)}; it must list tokens by id; fetch it again"
        ) from None


def _add_configured_tokens(
    tokenizer: Tokenizer, listed: Sequence[AddedToken], special_tokens: Mapping[str, str]
) -> None:
    """Add the tokens of tokenizer_config.json that tokenizer.json lacks; `special_tokens` are added as special."""
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in listed:
        if token.content not in present:
            present.add(token.content)
            tokenizer.add_tokens([token])
    for text in special_tokens.values():
        if text not in present:
            tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _chat_template(root: Path, config: HFConfig) -> str | None:
    """Return the chat template of chat_template.jinja, else chat_template.json, else tokenizer_config.json."""
    jinja = root / "chat_template.jinja"
    if jinja.is_file():
        return read_text(jinja)
    own = _read_optional(root / "chat_template.json")
    holder = own if own.has("chat_template") else config
    template = holder.raw("chat_template")
    if isinstance(template, list):  # several, by name
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    return _checked_template(template, holder.source)


def _checked_template(template: object, source: str) -> str | None:
    if template is not None and not isinstance(template, str):
        raise CheckpointError(
            f"{source}: the chat template is {quote_value(template)}, which is not a text; fetch it again"
        )
    return template


def _read_optional(path: Path) -> HFConfig:
    """Read a JSON object from a file; an empty one if there is no such file."""
    return read_json_config(path) if path.is_file() else HFConfig({}, str(path))


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):  # an AddedToken with its flags
        value = value.get("content")
    return value if isinstance(value, str) else None


def _id_of(tokenizer: Tokenizer, token: str | None) -> int | None:
    found: int | None = None if token is None else tokenizer.token_to_id(token)
    return found


def _unique(ids: list[int | None]) -> list[int]:
    return list(dict.fromkeys(i for i in ids if i is not None))
