"""Whether a text matches a grammar, by llguidance over a tokenizer of bytes and special tokens."""

import json
from collections.abc import Callable, Sequence

import llguidance
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from server.structured_outputs.grammar import GrammarBuilder
from server.tools.format import Tool, ToolFormat

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # bytes as the tokenizer writes them, in the order of ids
_END = "<|end_of_text|>"


class Matching:
    """A format's grammars. specials: the texts that are special tokens."""

    def __init__(self, specials: Sequence[str] = ()) -> None:
        self._tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(ALPHABET)}, []))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        self._tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (_END, *specials)])
        self._end_id = self._tokenizer.token_to_id(_END)
        added = {token.content: token_id for token_id, token in self._tokenizer.get_added_tokens_decoder().items()}
        self._special_ids = {text: added[text] for text in specials}
        self._guidance = llguidance.LLTokenizer(self._tokenizer.to_str(), eos_token=self._end_id)

    def accepts(
        self, tool_format: ToolFormat, tools: Sequence[Tool], text: str, *, min_calls: int, is_parallel: bool = True
    ) -> bool:
        """Whether the format's grammar allows exactly `text`."""
        builder = GrammarBuilder(self._special_ids)
        grammar = builder.build(tool_format.grammar(builder, tools, min_calls=min_calls, is_parallel=is_parallel))
        matcher = llguidance.LLMatcher(self._guidance, grammar, log_level=0)
        assert not matcher.get_error(), (matcher.get_error(), json.loads(grammar))
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()

    def sample(
        self,
        tool_format: ToolFormat,
        tools: Sequence[Tool],
        choose: Callable[[list[int]], int],
        *,
        min_calls: int,
        max_tokens: int = 4000,
    ) -> str:
        """A text that the grammar allows; choose: picks one of the token ids that may follow."""
        builder = GrammarBuilder(self._special_ids)
        grammar = builder.build(tool_format.grammar(builder, tools, min_calls=min_calls, is_parallel=True))
        matcher = llguidance.LLMatcher(self._guidance, grammar, log_level=0)
        ids: list[int] = []
        while not matcher.is_stopped() and len(ids) < max_tokens:
            allowed = matcher.compute_logit_bias()
            token_id = choose([index for index, bias in enumerate(allowed) if bias])
            if token_id == self._end_id:
                break
            assert matcher.consume_token(token_id), matcher.get_error()
            ids.append(token_id)
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text
