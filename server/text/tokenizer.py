"""Tokenizer: text <-> token ids in the API process, with control over which text may become a control token."""

import asyncio
import os
import secrets
from collections.abc import Mapping

import tokenizers

from engine.protocol import TokenizerInfo
from server.text.token_bytes import TokenBytes

# Prompts come one by one, so the library's own threads gain nothing, and once started they warn at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Encoding runs at a few megabytes a second: above this length the event loop would notice.
_INLINE_CHARACTERS = 4096


class Tokenizer:
    """A model's tokenizer. All methods may be called from any thread.

    Two `tokenizers` objects, because the switch that keeps control tokens' text from being parsed is a property of the
    object: `_parsing` turns it into control tokens, `_plain` into ordinary ones.
    """

    def __init__(self, info: TokenizerInfo) -> None:
        """Raises StartupError if ids of this tokenizer cannot be turned into text."""
        self._parsing = _load(info.tokenizer_json)
        self._plain = _load(info.tokenizer_json)
        self._plain.encode_special_tokens = True
        self._bytes = TokenBytes(self._parsing.decoder)
        self.bos_token_id = info.bos_token_id
        self._add_bos_token = info.add_bos_token
        self.eos_token_ids = info.eos_token_ids
        self.chat_template = info.chat_template
        self.special_tokens = info.special_tokens
        added = self._parsing.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.special_texts = frozenset(token.content for token in added.values() if token.special)
        # What a grammar takes for special, as llguidance does: <tool_call> is, whatever the tokenizer says.
        self.ids_of_marks = {
            token.content: token_id for token_id, token in added.items() if token.special or _is_tag(token.content)
        }
        self.strips_space = self._bytes.strips_space
        self.vocab_size: int = self._parsing.get_vocab_size()
        self.adds_bos = self.bos_token_id is not None and self.encode("")[:1] == [self.bos_token_id]
        self._bytes_of: dict[int, bytes] = {}  # filled as ids are met
        # Stands in for a control token in text that is encoded as plain. No text of a user's can contain it.
        self._marker = f"\ue000{secrets.token_hex(16)}\ue000"
        self._plain.add_tokens([tokenizers.AddedToken(self._marker, normalized=False)])
        self._marker_id = self._plain.token_to_id(self._marker)

    # --- text -> ids -------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of `text`.

        add_special_tokens: begin with BOS where the model wants one, and never with two. parse_special: text that
        spells a control token becomes that token; else it becomes ordinary tokens.
        """
        tokenizer = self._parsing if parse_special else self._plain
        ids = _ids(tokenizer, text, add_special_tokens)
        return self._with_one_bos(ids) if add_special_tokens else ids

    def encode_chat(self, prompt: str, hidden: Mapping[str, str]) -> list[int]:
        """The ids of a rendered chat template, in which `hidden` texts stand behind the placeholders that are its keys.

        Control tokens are parsed in the template's own text and never in the hidden ones; apart from that the ids are
        those of the whole text, with no seam where a placeholder was.
        """
        if not hidden:
            return self.encode(prompt, add_special_tokens=False)
        (encoding,) = self._parsing.encode_batch([prompt], add_special_tokens=False)
        control_ids = []
        pieces = []
        end = 0
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self.special_ids:
                control_ids.append(token_id)
                pieces.append(prompt[end:start])
                end = stop
        pieces.append(prompt[end:])
        for placeholder, original in hidden.items():
            pieces = [piece.replace(placeholder, original) for piece in pieces]
        parsed = iter(control_ids)
        ids = _ids(self._plain, self._marker.join(pieces), add_special_tokens=False)
        return [next(parsed) if token_id == self._marker_id else token_id for token_id in ids]

    async def encode_async(
        self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        """`encode`, in a thread where the text is long; the event loop goes on meanwhile."""
        if len(text) <= _INLINE_CHARACTERS:
            return self.encode(text, add_special_tokens=add_special_tokens, parse_special=parse_special)
        return await asyncio.to_thread(
            self.encode, text, add_special_tokens=add_special_tokens, parse_special=parse_special
        )

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        bos = self.bos_token_id
        if self._add_bos_token and bos is not None and ids[:1] != [bos]:
            return [bos, *ids]
        if bos is not None and ids[:2] == [bos, bos]:  # the post-processor's, before one that the text spells
            return ids[1:]
        return ids

    # --- ids -> text -------------------------------------------------------------------------------------------------

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that `token_id` adds to a text; they need not be whole characters."""
        found = self._bytes_of.get(token_id)
        if found is None:
            token = self.id_to_token(token_id)
            found = b"" if token is None else self._bytes.of(token)
            self._bytes_of[token_id] = found
        return found

    def token_to_id(self, text: str) -> int | None:
        """The id of the vocabulary's entry that is spelled `text`, control tokens included."""
        token_id: int | None = self._parsing.token_to_id(text)
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary's own spelling ("Ġthe", "<0x0A>"), or None if it has no such id."""
        if not 0 <= token_id < 2**32:
            return None
        token: str | None = self._parsing.id_to_token(token_id)
        return token


def _is_tag(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _ids(tokenizer: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Ids without offsets. A batch of one, since `tokenizers` keeps the GIL in `encode` and releases it for batches."""
    (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def _load(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
    # A tokenizer.json may carry the settings of its training runs; a prompt is never cut or padded.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
