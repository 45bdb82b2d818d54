"""Tokenizer: converts between text and token ids, and controls which text may become control tokens."""

import contextlib
import functools
import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping

import tokenizers

from engine.errors import InvalidRequest
from engine.protocol import TokenizerInfo
from server.text.known_pieces import find_known_pieces
from server.text.pieces import PIECE_SIZE, Cuts, find_cuts
from server.text.token_bound import TokenBound, TooManyTokens, find_token_bound
from server.text.token_bytes import TokenBytes
from server.text.tokenizer_json import parse_tokenizer

# Prompts come one at a time, so the library's own threads gain nothing, and they warn at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_LEAD = "\u263a"  # a text that no tokenizer joins with the text after it
_MAX_VOCAB_SIZE = 1 << 21  # ids need not be dense


@contextlib.contextmanager
def refusing_panics() -> Iterator[None]:
    """Turn a panic of the tokenizer library, such as a regular expression that gives up on a text, into
    InvalidRequest."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which no module exports, and which is not an Exception
            raise
        raise InvalidRequest(f"the model's tokenizer fails on this text: {error}; change the text") from None


class Tokenizer:
    """The tokenizer of a model. All methods may be called from any thread. Those that read a text raise InvalidRequest
    if the library fails on it.

    There are two `tokenizers.Tokenizer` objects, since parsing of control tokens is a setting of the object: `_parsing`
    turns text that spells a control token into that token, `_plain` into ordinary tokens.
    """

    def __init__(self, info: TokenizerInfo) -> None:
        """Raises TextUnusable if ids of this tokenizer cannot be turned into text."""
        self._parsing = _load(info.tokenizer_json)
        self._plain = _twin(self._parsing, info.tokenizer_json)
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
        # Tokens that grammars treat as special, like llguidance: <tool_call> is, whatever the tokenizer declares.
        self.ids_of_marks = {
            token.content: token_id for token_id, token in added.items() if token.special or _is_tag(token.content)
        }
        self.strips_space = self._bytes.strips_space
        self.vocab_size: int = self._parsing.get_vocab_size()
        self.adds_bos = self.bos_token_id is not None and self.encode("")[:1] == [self.bos_token_id]
        self._bytes_of: dict[int, bytes] = {}  # filled as ids are met
        self._text_of: dict[int, str | None] = {}  # likewise
        # Replaces control tokens in text that is encoded as plain text. No client's text can contain it.
        self._marker = f"\ue000{secrets.token_hex(16)}\ue000"
        self._plain.add_tokens([tokenizers.AddedToken(self._marker, normalized=False)])
        self._marker_id = self._plain.token_to_id(self._marker)
        self._known = find_known_pieces(self._parsing, self._encode_parsed)

    @property
    def library(self) -> tokenizers.Tokenizer:
        """The `tokenizers.Tokenizer` that parses control tokens. Callers must not change it."""
        return self._parsing

    # --- text -> ids -------------------------------------------------------------------------------------------------

    @refusing_panics()
    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        parse_special: bool = True,
        at_most: int | None = None,
    ) -> list[int]:
        """Return the ids of `text`.

        add_special_tokens: begin with exactly one BOS if the model needs it. parse_special: text that spells a control
        token becomes that token, else ordinary tokens. Raises TooManyTokens for a long text with more than `at_most`
        tokens, before all of it is tokenized if the tokenizer allows that.
        """
        tokenizer = self._parsing if parse_special else self._plain
        pieces = self._ids_of_pieces(tokenizer, text, add_special_tokens)
        ids = _joined(pieces) if at_most is None else self._limited(pieces, text, at_most)
        return self.with_one_bos(ids) if add_special_tokens else ids

    def encode_inside(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text` as part of a longer text: some tokenizers add a space at the beginning otherwise."""
        encode = functools.partial(self.encode, add_special_tokens=False, parse_special=parse_special)
        return self._inside(encode, text)

    def encode_chat_inside(self, prompt: str, hidden: Mapping[str, str]) -> list[int]:
        """Return the ids of a part of a rendered chat that follows other text. Arguments are those of `encode_chat`."""
        return self._inside(functools.partial(self.encode_chat, hidden=hidden), prompt)

    def _inside(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        if self.strips_space and text:
            before, ids = encode(_LEAD), encode(_LEAD + text)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return encode(text)

    @refusing_panics()
    def encode_start(self, text: str, num_tokens: int, *, add_special_tokens: bool = True) -> list[int]:
        """Return at least the first `num_tokens` ids of `text`, without tokenizing all of a long text."""
        ids: list[int] = []
        for _, more in self._ids_of_pieces(self._parsing, text, add_special_tokens):
            ids += more
            if len(ids) > num_tokens:  # one more than needed, since a BOS may be dropped
                break
        return self.with_one_bos(ids) if add_special_tokens else ids

    @refusing_panics()
    def encode_end(
        self, text: str, num_tokens: int, *, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Return at least the last `num_tokens` ids of `text`, after a BOS if `encode` adds one."""
        tokenizer = self._parsing if parse_special else self._plain
        cuts = None if len(text) <= PIECE_SIZE else self._cuts
        if cuts is None or (add_special_tokens and not self._adds_in_front):
            return self.encode(text, add_special_tokens=add_special_tokens, parse_special=parse_special)
        tail: list[int] = []
        for start, end in reversed(list(cuts.pieces(text))):
            if len(tail) >= num_tokens:
                return [*self.encode(""), *tail] if add_special_tokens else tail
            tail = _ids(tokenizer, text[start:end], add_special_tokens and start == 0) + tail
        return self.with_one_bos(tail) if add_special_tokens else tail

    @refusing_panics()
    def encode_chat(
        self, prompt: str, hidden: Mapping[str, str], *, at_most: int | None = None, cache_salt: str = ""
    ) -> list[int]:
        """Return the ids of a rendered chat. `hidden` maps placeholders in `prompt` to the texts that replace them.
        Ids of known texts are shared by calls with the same `cache_salt`.

        Control tokens are parsed in the template's own text and never in hidden texts. Apart from that, the ids equal
        those of the text with all placeholders replaced. Raises TooManyTokens for a long prompt with more than
        `at_most` tokens.
        """
        if not hidden:
            self.check_bound(prompt, at_most)
            if self._known is not None:
                return self._known.ids(prompt, at_most, salt=cache_salt)
            return self._encode_parsed(prompt, at_most)
        whole = prompt
        for placeholder, original in hidden.items():
            whole = whole.replace(placeholder, original)
        self.check_bound(whole, at_most)
        control_ids = []
        pieces = []
        end = 0
        for token_id, start, stop in self._control_tokens(prompt):
            control_ids.append(token_id)
            pieces.append(prompt[end:start])
            end = stop
        pieces.append(prompt[end:])
        for placeholder, original in hidden.items():
            pieces = [piece.replace(placeholder, original) for piece in pieces]
        parsed = iter(control_ids)
        text = self._marker.join(pieces)
        ids = _joined(self._ids_of_pieces(self._plain, text, add_special_tokens=False))
        return [next(parsed) if token_id == self._marker_id else token_id for token_id in ids]

    def _encode_parsed(self, text: str, at_most: int | None) -> list[int]:
        return self.encode(text, add_special_tokens=False, at_most=at_most)

    def _control_tokens(self, prompt: str) -> Iterator[tuple[int, int, int]]:
        """Yield (id, start, end) of each control token that the prompt spells, in order."""
        for first, last in self._pieces(prompt):
            (encoding,) = self._parsing.encode_batch([prompt[first:last]], add_special_tokens=False)
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
                if token_id in self.special_ids:
                    yield token_id, first + start, first + stop

    def _pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of pieces of a text that can be tokenized separately without changing its ids."""
        cuts = None if len(text) <= PIECE_SIZE else self._cuts
        return iter([(0, len(text))]) if cuts is None else cuts.pieces(text)

    def _ids_of_pieces(
        self, tokenizer: tokenizers.Tokenizer, text: str, add_special_tokens: bool
    ) -> Iterator[tuple[int, list[int]]]:
        """Tokenize a text piece by piece; yield each piece's end position in the text, and its ids."""
        if len(text) > PIECE_SIZE and add_special_tokens and not self._adds_in_front:
            yield len(text), _ids(tokenizer, text, add_special_tokens)
            return
        for start, end in self._pieces(text):
            yield end, _ids(tokenizer, text[start:end], add_special_tokens and start == 0)

    def _limited(self, pieces: Iterator[tuple[int, list[int]]], text: str, at_most: int) -> list[int]:
        self.check_bound(text, at_most)
        ids: list[int] = []
        for end, more in pieces:
            ids += more
            if len(ids) > at_most and end < len(text):
                bound = self._bound
                rest = 0 if bound is None else bound.at_least(text[end:], enough=0)
                raise TooManyTokens(len(ids) + rest)
        return ids

    def check_bound(self, text: str, at_most: int | None) -> None:
        """Raise TooManyTokens if a long text certainly has more than `at_most` tokens."""
        if at_most is None or len(text) <= PIECE_SIZE or (bound := self._bound) is None:
            return
        if (num_tokens := bound.at_least(text, enough=at_most)) > at_most:
            raise TooManyTokens(num_tokens)

    def prepare_for_long_texts(self) -> None:
        """Compute now, not at the first long text, where long texts can be split and how to bound their tokens."""
        _ = self._cuts

    @functools.cached_property
    def _bound(self) -> TokenBound | None:
        """Lower bound on a text's tokens; None if none is known. Takes tenths of a second for a large vocabulary."""
        ids = (token_id for token_id in range(_MAX_VOCAB_SIZE) if self.id_to_token(token_id) is not None)
        entries = [self.token_bytes(token_id) for token_id in itertools.islice(ids, self.vocab_size)]
        if len(entries) < self.vocab_size:
            return None
        return find_token_bound(self._parsing, entries, is_byte_level=self._bytes.is_byte_level)

    @functools.cached_property
    def _cuts(self) -> Cuts | None:
        return find_cuts(self._parsing, self._bound)

    @functools.cached_property
    def _adds_in_front(self) -> bool:
        """Whether special tokens are added only at the beginning of a text, not at its end."""
        return _ids(self._parsing, "a", True)[-1:] == _ids(self._parsing, "a", False)[-1:]

    def with_one_bos(self, ids: list[int]) -> list[int]:
        """Return the ids of a whole text with one BOS at the beginning if the model needs it, and never two."""
        bos = self.bos_token_id
        if self._add_bos_token and bos is not None and ids[:1] != [bos]:
            return [bos, *ids]
        if bos is not None and ids[:2] == [bos, bos]:  # one from the post-processor, one spelled by the text
            return ids[1:]
        return ids

    # --- ids -> text -------------------------------------------------------------------------------------------------

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to a text. They may end within a UTF-8 character."""
        found = self._bytes_of.get(token_id)
        if found is None:
            token = self.id_to_token(token_id)
            found = b"" if token is None else self._bytes.of(token)
            self._bytes_of[token_id] = found
        return found

    def token_text(self, token_id: int) -> str | None:
        """Return the text that a token adds to a text; None if its bytes are not whole characters."""
        try:
            return self._text_of[token_id]
        except KeyError:
            try:
                text = self.token_bytes(token_id).decode()
            except UnicodeDecodeError:
                text = None
            self._text_of[token_id] = text
            return text

    def token_to_id(self, text: str) -> int | None:
        """Return the id of the token that the vocabulary spells `text`, control tokens included."""
        token_id: int | None = self._parsing.token_to_id(text)
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """Return the token in the vocabulary's own spelling ("Ġthe", "<0x0A>"); None for an unknown id."""
        if not 0 <= token_id < 2**32:
            return None
        token: str | None = self._parsing.id_to_token(token_id)
        return token


def _is_tag(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _ids(tokenizer: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Tokenize one text without offsets, as a batch of one, since `tokenizers` releases the GIL only for batches."""
    (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def _joined(pieces: Iterable[tuple[int, list[int]]]) -> list[int]:
    return [token_id for _, ids in pieces for token_id in ids]


def _load(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    tokenizer = parse_tokenizer(tokenizer_json)
    # A tokenizer.json may have the settings of its training runs, but prompts are never truncated or padded.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _twin(tokenizer: tokenizers.Tokenizer, tokenizer_json: bytes) -> tokenizers.Tokenizer:
    """Return a second tokenizer that shares the vocabulary, but not the setting for control tokens. Reading the
    vocabulary again would double its memory, and hold the GIL for tenths of a second."""
    twin = tokenizers.Tokenizer(tokenizer.model)
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (component := getattr(tokenizer, name)) is not None:
            setattr(twin, name, component)
    added = tokenizer.get_added_tokens_decoder()
    twin.add_tokens([added[token_id] for token_id in sorted(added)])
    if twin.get_added_tokens_decoder() == added:
        return twin
    return _load(tokenizer_json)  # the ids have a gap, which adding the tokens one by one does not leave
