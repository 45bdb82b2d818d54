"""TokenWords: token sequences that spell a text, and tokens that contain one."""

from functools import lru_cache

from engine.errors import InvalidRequest
from server.text.tokenizer import Tokenizer

_MAX_TAIL = 20  # tokens of a breaker after its first token, as in llama.cpp
_MAX_SEQUENCES = 10_000  # sequences of several tokens for the breakers of a request


class TokenWords:
    """Lookup of the tokens and token sequences that spell or contain a text. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: list[bytes] | None = None  # bytes of each id, read when first needed
        self._breaker = lru_cache(maxsize=256)(self._find_breaker)

    def spellings(self, word: str) -> list[tuple[int, ...]]:
        """Return the token sequences of `word` inside a text, without and with a space before it.

        Leading spaces of `word` are ignored, unless it is only spaces. A control token's text becomes that token.
        """
        stripped = word.lstrip(" ") or word
        found = (self._tokenizer.encode_inside(text) for text in (stripped, f" {stripped}"))
        return list(dict.fromkeys(tuple(ids) for ids in found if ids))

    def breakers(self, texts: list[str], *, cache_salt: str = "") -> tuple[bytes, tuple[tuple[int, ...], ...]]:
        """Return the DRY sequence breakers for these texts: a token mask, and token sequences.

        The mask has a bit for each token, the lowest first, set if the token contains one of the texts. Each
        sequence spells a text that begins within its first token. The first call for a text reads the whole vocabulary,
        which takes tenths of a second; later calls share its result if they have its `cache_salt`, so that their time
        does not tell what other clients sent. Raises InvalidRequest if there are too many sequences.
        """
        mask, sequences = 0, dict[tuple[int, ...], None]()
        for text in texts:
            text_mask, text_sequences = self._breaker(text, cache_salt)
            mask |= text_mask
            sequences.update(dict.fromkeys(text_sequences))
            if len(sequences) > _MAX_SEQUENCES:
                raise InvalidRequest(
                    f"dry_sequence_breakers have {len(sequences):,} spellings with several tokens; the limit is "
                    f"{_MAX_SEQUENCES:,}; give shorter or fewer ones",
                    param="dry_sequence_breakers",
                )
        return mask.to_bytes(-(-mask.bit_length() // 8), "little"), tuple(sequences)

    def _find_breaker(self, text: str, _: str) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """Return the DRY sequence breakers for one text: a bit mask of the tokens that contain it, and the token
        sequences that spell it across a token border."""
        pattern = text.encode()
        beginnings = tuple(pattern[:size] for size in range(1, len(pattern)))
        bits = bytearray(-(-self._tokenizer.vocab_size // 8))
        sequences = []
        for token_id, token in enumerate(self._token_bytes()):
            if pattern in token:
                bits[token_id // 8] |= 1 << token_id % 8
            elif beginnings and token.endswith(beginnings):
                sequences += [(token_id, *tail) for tail in self._tails(token, pattern)]
        return int.from_bytes(bits, "little"), tuple(dict.fromkeys(sequences))

    def _tails(self, token: bytes, pattern: bytes) -> list[tuple[int, ...]]:
        """Return the token ids that complete `pattern` after `token`, for each prefix of it that `token` ends with."""
        tails = []
        for size in range(1, len(pattern)):
            if token.endswith(pattern[:size]):
                try:
                    rest = pattern[size:].decode()
                except UnicodeDecodeError:  # the rest starts within a character, as no text does
                    continue
                tails.append(tuple(self._tokenizer.encode_inside(rest)[:_MAX_TAIL]))
        return [tail for tail in tails if tail]

    def _token_bytes(self) -> list[bytes]:
        if self._vocabulary is None:
            self._vocabulary = [self._tokenizer.token_bytes(i) for i in range(self._tokenizer.vocab_size)]
        return self._vocabulary
