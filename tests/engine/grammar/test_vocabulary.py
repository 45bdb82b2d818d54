"""GrammarVocabulary: text that spells a special token is text, and ids are the model's."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.grammar.vocabulary import GrammarVocabulary, TokenizerSource
from tests.helpers.fake_client import IM_END, byte_tokenizer

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_str(byte_tokenizer().decode())
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> GrammarVocabulary:
    return GrammarVocabulary.of(TokenizerSource(tokenizer.to_str().encode(), tokenizer.get_vocab_size(), [256]))


def _forced(vocabulary: GrammarVocabulary, grammar: dict[str, object]) -> list[int]:
    sequence = SequenceGrammar(vocabulary.eos_token_ids, appends_forced=True)
    sequence.start(vocabulary.matcher(json.dumps({"grammars": [grammar]})))
    assert sequence.forced_next is not None
    output = sequence.advance([sequence.forced_next], max_tokens=100)
    assert sequence.is_complete
    return output


@pytest.mark.parametrize("text", ["a<|im_end|>b", "<tool_call>", "<|bos|>", "plain"])
def test_a_text_is_forced_in_ordinary_tokens(vocabulary: GrammarVocabulary, tokenizer: Tokenizer, text: str) -> None:
    output = _forced(vocabulary, {"lark_grammar": f"start: {json.dumps(text)}"})
    special = set(tokenizer.get_added_tokens_decoder())
    assert special.isdisjoint(output)
    assert tokenizer.decode(output, skip_special_tokens=False) == text


def test_a_key_may_spell_a_special_token(vocabulary: GrammarVocabulary, tokenizer: Tokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {"<|im_end|>": {"const": "<tool_call>"}},
        "required": ["<|im_end|>"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    output = _forced(vocabulary, {"json_schema": schema})
    assert tokenizer.decode(output, skip_special_tokens=False) == '{"<|im_end|>":"<tool_call>"}'


def test_a_special_token_goes_by_its_id(vocabulary: GrammarVocabulary, tokenizer: Tokenizer) -> None:
    added = tokenizer.token_to_id("<tool_call>")
    assert _forced(vocabulary, {"lark_grammar": f'start: "a" <[{IM_END}]> <[{added}]> "b"'})[1:3] == [IM_END, added]
