"""Grammars over the ledger's 40 tokens, and the outputs that they leave."""

import functools
import json
from collections import abc

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.grammar.vocabulary import GrammarVocabulary, TokenizerSource
from engine.protocol import EngineRequest, FinishReason
from tests.helpers.ledger import EOS_ID, VOCAB_SIZE, allowed_ids, next_token

_CHARACTERS = '{}[]":,abcdeflnrstu012'
_MERGES = ['{ "', '" :', '": "', '" ,', '", "', '" }', "t r", "u e", "tr ue", "f a", "l s", "ls e", "fa lse"]
_MERGES += ["a b", "ab c", "0 1", "d e"]


def _json_grammar(schema: dict[str, object]) -> str:
    schema = {**schema, "x-guidance": {"whitespace_flexible": False}}
    return json.dumps({"grammars": [{"json_schema": schema}]})


def _lark_grammar(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


# Keys that are forced, lists that may end, numbers that may continue, choices with common beginnings, and free text.
GRAMMARS = (
    _json_grammar(
        {
            "type": "object",
            "properties": {"abc": {"type": "boolean"}, "de": {"enum": ["ab", "abc", "de"]}},
            "required": ["abc", "de"],
            "additionalProperties": False,
        }
    ),
    _json_grammar({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4}),
    _json_grammar({"enum": ["ab", "abc", "abcabc", "true", 10, 1010]}),
    _lark_grammar("start: /[012]+/ | /[abc]{2,9}/"),
    _lark_grammar('start: "[" (start ",")* "]" | "de"'),
    _lark_grammar('start: "abcabc" /[a-f]{0,5}/'),
)
_TOO_COMPLEX = "(a|aa)+" * 200
# The second one begins as any other does, and cannot be followed from its third token on.
TOO_COMPLEX_AT_ONCE = _lark_grammar(f"start: /{_TOO_COMPLEX}/")
TOO_COMPLEX_LATER = _lark_grammar(f'start: /[01]/ "," /{_TOO_COMPLEX}/')


@functools.cache
def ledger_source() -> TokenizerSource:
    tokens = ["<eos>", *_CHARACTERS, *(merge.replace(" ", "") for merge in _MERGES)]
    assert len(tokens) == VOCAB_SIZE
    merges = [(first, second) for first, second in (merge.split(" ") for merge in _MERGES)]
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(tokens[EOS_ID], special=True, normalized=False)])
    return TokenizerSource(tokenizer.to_str().encode(), VOCAB_SIZE, [EOS_ID])


@functools.cache
def ledger_vocabulary() -> GrammarVocabulary:
    return GrammarVocabulary.of(ledger_source())


def sequence_grammar(text: str, *, appends_forced: bool = True, output_ids: abc.Sequence[int] = ()) -> SequenceGrammar:
    """Ready, at its beginning or behind the output."""
    grammar = SequenceGrammar(frozenset([EOS_ID]), appends_forced=appends_forced, output_ids=output_ids)
    grammar.start(ledger_vocabulary().matcher(text))
    return grammar


def encode(text: str) -> list[int]:
    ids: list[int] = Tokenizer.from_str(ledger_source().tokenizer_json.decode()).encode(text).ids
    return ids


def decode(ids: list[int]) -> str:
    text: str = Tokenizer.from_str(ledger_source().tokenizer_json.decode()).decode(ids)
    return text


def expected_output(request: EngineRequest) -> tuple[list[int], FinishReason]:
    """The output of a request with a grammar under every schedule: each token is chosen by itself, none is forced."""
    assert request.grammar is not None
    grammar = sequence_grammar(request.grammar, appends_forced=False)
    sampling = request.sampling
    output: list[int] = []
    while len(output) < sampling.max_tokens:
        history = list(request.prompt_ids) + output
        output.append(next_token(history, sampling.seed or 0, allowed_ids(grammar)))
        grammar.advance(output[-1:], max_tokens=1)
        if grammar.is_complete:
            return output, FinishReason.STOP
    return output, FinishReason.LENGTH
