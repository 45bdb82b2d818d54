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


def test_ids_that_a_checkpoint_names_need_no_known_spelling() -> None:
    texts = ("<before>", "<after>", "<between>", "<nothing>", "<other_file>", "<repository>")
    tokenizer = Tokenizer(fim_tokenizer(texts))
    roles = ("prefix", "suffix", "middle", "pad", "file", "repository")
    named = {role: tokenizer.token_to_id(text) for role, text in zip(roles, texts, strict=True)}
    fim = find_fill_in_middle(tokenizer, named)
    assert fim is not None
    assert decode(tokenizer, fim.prompt(list(b"ab"), list(b"cd")), skip_special_tokens=False) == (
        "<before>ab<after>cd<between>"
    )
    assert (fim.file_id, fim.repository_id) == (named["file"], named["repository"])
    assert fim.end_ids == set(named.values())
    assert not fim.end_ids & set(fim.encode("x<between>y<nothing>", tokenizer))
    assert find_fill_in_middle(tokenizer, {"prefix": named["prefix"]}) is None
    assert find_fill_in_middle(tokenizer, {**named, "suffix": 5000}) is None


@pytest.mark.parametrize("texts", [texts for texts, _ in FAMILIES])
def test_a_familys_order_holds_where_the_checkpoint_names_its_ids(texts: tuple[str, ...]) -> None:
    tokenizer = Tokenizer(fim_tokenizer(texts))
    family = find_fill_in_middle(tokenizer)
    assert family is not None
    named = {role: token_id for role, token_id in family.roles.items() if token_id is not None}
    assert find_fill_in_middle(tokenizer, named) == family


def test_named_ids_count_before_a_familys() -> None:
    tokenizer = Tokenizer(fim_tokenizer((*QWEN, "<before>")))
    before = tokenizer.token_to_id("<before>")
    family = find_fill_in_middle(tokenizer)
    assert family is not None
    assert before is not None
    fim = find_fill_in_middle(tokenizer, {"prefix": before, "suffix": family.suffix_id, "middle": family.prefix_id})
    assert fim is not None
    assert (fim.prefix_id, fim.middle_id) == (before, family.prefix_id)


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
