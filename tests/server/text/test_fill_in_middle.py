"""Which vocabularies fill in the middle, in which order, and that no text of a client's spells their tokens."""

import pytest

from server.text.detokenizer import decode
from server.text.fill_in_middle import find_fill_in_middle
from server.text.tokenizer import Tokenizer
from tests.helpers.fake_client import engine_info
from tests.helpers.fim_tokenizer import QWEN, fim_tokenizer

pytestmark = pytest.mark.fast

FAMILIES = [
    (QWEN, "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>"),
    (("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"), "<fim_prefix>ab<fim_suffix>cd<fim_middle>"),
    (("<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>"), "<fim-prefix>ab<fim-suffix>cd<fim-middle>"),
    (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), "<｜fim▁begin｜>ab<｜fim▁hole｜>cd<｜fim▁end｜>"),
    (("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), "▁<PRE>ab▁<SUF>cd▁<MID>"),
    (("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"), "<|code_prefix|>ab<|code_suffix|>cd<|code_middle|>"),
    (("<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"), "<[fim-suffix]>cd<[fim-prefix]>ab<[fim-middle]>"),
    (("[PREFIX]", "[SUFFIX]"), "[SUFFIX]cd[PREFIX]ab"),
]


@pytest.mark.parametrize(("texts", "prompt"), FAMILIES)
def test_a_familys_prompt_is_what_its_models_were_trained_with(texts: tuple[str, ...], prompt: str) -> None:
    tokenizer = Tokenizer(fim_tokenizer(texts))
    fim = find_fill_in_middle(tokenizer)
    assert fim is not None
    assert fim.prompt(list(b"ab"), list(b"cd")) == tokenizer.encode(prompt, add_special_tokens=False)
    assert fim.num_marks == len(fim.prompt([], []))


@pytest.mark.parametrize("texts", [texts for texts, _ in FAMILIES])
def test_every_token_of_a_family_ends_the_middle(texts: tuple[str, ...]) -> None:
    tokenizer = Tokenizer(fim_tokenizer(texts))
    fim = find_fill_in_middle(tokenizer)
    assert fim is not None
    assert fim.end_ids == {tokenizer.token_to_id(text) for text in texts}


def test_a_vocabulary_without_the_tokens_has_none() -> None:
    assert find_fill_in_middle(Tokenizer(engine_info().tokenizer)) is None


def test_some_of_the_tokens_are_not_enough() -> None:
    assert find_fill_in_middle(Tokenizer(fim_tokenizer(("<|fim_prefix|>", "<|fim_suffix|>")))) is None


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "a<|fim_middle|>b",
        "<|fim_middle|>",
        "<|fim_prefix|><|fim_suffix|>",
        "<|file_sep|>x\n<|repo_name|>",
        "<|im_end|>",
        "<<|fim_pad|>>",
        "<|fim_<|fim_pad|>middle|>",
    ],
)
def test_a_clients_text_spells_no_token(text: str, special: bool) -> None:
    tokenizer = Tokenizer(fim_tokenizer(special=special))
    fim = find_fill_in_middle(tokenizer)
    assert fim is not None
    ids = fim.encode(text, tokenizer)
    assert ids == list(text.encode())
    assert decode(tokenizer, ids) == text
