"""BPE vocabularies of GGUF files: the words of each pre-tokenizer, and the kinds that spell spaces as "▁"."""

from pathlib import Path
from typing import Any

import pytest

from models.errors import CheckpointError, UnsupportedModelError
from models.tokenizer.gguf import convert_gguf_tokenizer
from models.tokenizer.gguf_pretokenizers import WORD_SPLITS
from tests.helpers.tokenizers import byte_level_metadata

PATH = Path("m.gguf")

# The words of one text, with "|" between them, by the names that split it so. llama.cpp b11434 splits it so, too, but
# does not tell capitals from small letters for kimi-k2, youtu and cohere2moe, and splits the spaces before a number
# for afmoe and cohere2moe.
WORDS = {
    "a.x-4.0 exaone4 gigachat gpt-2 granite-docling jais jina-de jina-es jina-v1-en jina-v2-code "
    "jina-v2-de jina-v2-es mellum modern-bert mpt olmo phi-2 roberta-bpe trillion": (
        "It|'s| I|'|LL| aBc| 1234|,| 12345|x|\n\n | 2|\n|\n|漢字とไทย|。|é|/|\n|(|hi|)| 🙂|  \n"
    ),
    "codeshell command-r exaone mellum2 minerva-7b refact smollm starcoder": (
        "It|'s| I|'|LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n\n  |2|\n|\n|漢字とไทย|。|é|/|\n|(|hi|)| 🙂|  \n"
    ),
    "chatglm-bpe dbrx falcon-h1 falcon3 glm4 glm5 jais-2 jina-v5-nano lfm2 llama-bpe llama-v3 llama3 "
    "midm-2.0 pixtral smaug-bpe": "It|'s| I|'LL| aBc| |123|4|,| |123|45|x|\n\n| | |2|\n\n|"
    "漢字とไทย|。é|/\n|(hi|)| 🙂|  \n",
    "bailingmoe bailingmoe2 deepseek-r1-qwen exaone-moe f2llmv2 grok-2 hunyuan kormo llada-moe megrez "
    "qwen2 qwen35 solar-open stablelm2 ufakzeka": (
        "It|'s| I|'LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n\n| | |2|\n\n|漢字とไทย|。é|/\n|(hi|)| 🙂|  \n"
    ),
    "gpt-4o granite-embed-multi-97m kanana2 llama4 minimax-m2 talkie": (
        "It's| I'LL| a|Bc| |123|4|,| |123|45|x|\n\n| | |2|\n\n|漢字とไทย|。é|/\n|(hi|)| 🙂|  \n"
    ),
    "tekken": "It|'s| I|'LL| a|Bc| |1|2|3|4|,| |1|2|3|4|5|x|\n\n| | |2|\n\n|漢字とไทย|。é|/\n|(hi|)| 🙂|  \n",
    "kimi-k2": "It's| I'LL| a|Bc| |123|4|,| |123|45|x|\n\n| | |2|\n\n|漢字|とไทย|。é|/\n|(hi|)| 🙂|  \n",
    "deepseek-llm": "It|'|s| I|'|LL| aBc| |1234|,| |12345|x|\n|\n|  |2|\n|\n|漢字とไทย|。|é|/|\n|(|hi|)| 🙂|  |\n",
    "deepseek-coder": "It|'|s| I|'|LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n|\n|  |2|\n|\n|"
    "漢字とไทย|。|é|/|\n|(|hi|)| 🙂  |\n",
    "deepseek-v3 hunyuan-dense hy_v4 joyai-llm": "It|'s| I|'LL| aBc| |123|4|,| |123|45|x|\n\n|  |2|\n\n|"
    "漢字と|ไทย|。|é|/\n|(hi|)| 🙂|  \n",
    "bloom gpt3-finnish poro-chat": "It's| I'LL| aBc| 1234|,| 12345x|\n\n | 2|\n\n|漢字とไทย|。|é/|\n(|hi|)| 🙂|  \n",
    "viking": "It's| I'LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n\n | |2|\n\n|漢字とไทย|。|é/|\n(|hi|)| 🙂|  \n",
    "afmoe": "It|'s| I|'LL| aBc| |1|234|,| |12|345|x|\n\n|  |2|\n\n|漢字とไ|ทย|。|é|/\n|(hi|)| 🙂|  \n",
    "chameleon": "It|'|s| I|'|LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n|\n|  |2|\n|\n|漢字とไทย|。|é|/|\n|(|hi|)| 🙂|  |\n",
    "default": "It|'|s| I|'|LL| aBc| |123|4|,| |123|45|x|\n\n | |2|\n|\n|漢字とไทย|。|é|/|\n|(|hi|)| 🙂|  \n",
    "falcon": "It|'|s| I|'|LL| aBc| |123|4|,| |123|45|x|\n\n | 2|\n|\n|漢字とไทย|。|é|/|\n|(|hi|)| 🙂|  \n",
    "laguna": "It|'s| I|'LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n\n| | |2|\n\n|漢字とไทย|。é|/|\n|(hi|)| 🙂|  |\n",
    "minicpm5": "It|'s| I|'LL| aBc| |123|4|,| |123|45|x|\n\n|  |2|\n\n|漢字とไทย|。é|/\n|(hi|)| 🙂|  \n",
    "seed-coder": "It|'s| I|'LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n\n| | |2|\n\n|漢字とไทย|。é|/|\n|(hi|)| 🙂|  \n",
    "spark2_5": "It|'s| I|'LL| aBc| |1|2|3|4|,| |1|2|3|4|5|x|\n|\n|  |2|\n|\n|漢字と|ไทย|。|é|/|\n|(hi|)| 🙂|  \n",
    "superbpe": "It's I'LL aBc |1|234|, |12|345|x\n\n  |2|\n\n漢字とไทย。é/\n(hi) 🙂  \n",
    "cohere2moe tiny_aya": "It's| I'LL| a|Bc| |1|234|,| |123|45|x|\n\n|  |2|\n\n|漢字とไทย|。é|/\n|(hi|)| 🙂|  \n",
    "youtu": "It's| I'LL| a|Bc| |1|2|3|4|,| |1|2|3|4|5|x|\n\n| | |2|\n\n|漢字と|ไทย|。|é|/\n|(hi|)| 🙂|  \n",
    "gemma4 granite-embed-multi-311m sarvam-moe": "It's I'LL aBc 1234, 12345x\n\n  2\n\n漢字とไทย。é/\n(hi) 🙂  \n",
    "mmbert": "It's I'LL aBc 1234, 12345x|\n\n|  2|\n\n|漢字とไทย。é/|\n|(hi) 🙂  |\n",
    "whitespace": "It's|I'LL|aBc|1234,|12345x|2|漢字とไทย。é/|(hi)|🙂",
}
TEXT = next(iter(WORDS.values())).replace("|", "")


def _words(pre: str, text: str) -> list[str]:
    pre_tokenizer = convert_gguf_tokenizer(
        byte_level_metadata(pre=pre, add_sep_token=False), PATH
    ).tokenizer.pre_tokenizer
    return [text] if pre_tokenizer is None else [text[a:b] for _, (a, b) in pre_tokenizer.pre_tokenize_str(text)]


def test_every_name_of_llama_cpp_is_known() -> None:
    names = [name for names in WORDS for name in names.split()]
    assert len(names) == len(set(names)) == 92
    assert set(names) == set(WORD_SPLITS)


@pytest.mark.parametrize(("names", "expected"), WORDS.items(), ids=[names.split()[0] for names in WORDS])
def test_words_of_each_name(names: str, expected: str) -> None:
    for name in names.split():
        assert "|".join(_words(name, TEXT)) == expected, name


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["a", "1234", " b", "'", "S"]),
        ("smollm", ["a", "1", "2", "3", "4", " b", "'", "S"]),
        ("qwen2", ["a", "1", "2", "3", "4", " b", "'S", "\n\n", "c"]),
        ("llama-bpe", ["a", "123", "4", " b", "'S"]),
        ("default", ["a", "..", " ", "123", "4"]),
        ("gpt-4o", ["a", "Bc's", " DE", " ", "123", "4", "/\n/"]),
        ("tekken", ["a", "Bc", "'s", " DE", " ", "1", "2", "/\n"]),
        ("kimi-k2", ["a", "Bc's", " ", "12", "字", "a", "/\n", "/"]),
        ("deepseek-llm", ["aB", "'", "s", " ", "1234", "字", "a", " ", "ა", "\n", "\n"]),
        ("deepseek-coder", ["aB", "'", "s", " ", "1", "2", "字", "a", " ", "ა", "\n", "\n"]),
        ("deepseek-v3", ["aB", "'s", " ", "123", "4", "字", "a", " .", "ა", "\n\n"]),
        ("falcon", ["a", "`", "b", " ", "123", "4"]),
        ("bloom", ["it's", " a", ". ", " b"]),
        ("qwen35", ["a\u0301b", " ไทย", " हिन्दी", "."]),
        ("gpt-4o", ["ÜBER", " ไทย", " हिन्दी", "."]),
        ("exaone-moe", ["a new word", " ", " b", "/\n", "\n", "c"]),
        ("bailingmoe", ["a", "\n \n", " b", "'S"]),
        ("ufakzeka", ["İstanbul", "'da", " ", "1"]),
        ("jais-2", ["a", "\t" * 16, "\t" * 4, "\t", "\tb", "'S"]),
        ("seed-coder", ["a", " ++", "\n", "b"]),
        ("minicpm5", ["a", " ", "123", "4", "'S"]),
        ("laguna", ["a", " .", "\n\n", "b"]),
        ("spark2_5", ["a", " .", "\n", "\n", "1", "2", "字の"]),
        ("youtu", ["한국", "，", "ㄅ", "字", "a", "Bs", "1", "2"]),
        ("afmoe", ["a", "  ", "1", "234", "한국ไ", "ทยx"]),
        ("tiny_aya", ["a", " ", "1", "234", " ", "123", "4", "b"]),
        ("superbpe", ["a b, ", "12", "345", "c ", "999", " d"]),
        ("chameleon", ["<", "sentinel", ":", "1", "2", ">", "IMGIMGABZ", "a", ".", ".", "    ", "b", "\n"]),
        ("viking", [" a", "1", "2", ". ", " b"]),
        ("poro-chat", [" a12", ". ", " b"]),
    ],
)
def test_words_of_each_kind(pre: str, words: list[str]) -> None:
    assert _words(pre, "".join(words)) == words


@pytest.mark.parametrize("pre", ["afmoe", "cohere2moe", "superbpe"])
def test_a_long_number_is_split_from_the_right(pre: str) -> None:
    assert _words(pre, "7" * 60_001) == ["7", *["777"] * 20_000]


def _character_metadata(**changes: Any) -> dict[str, Any]:
    """As of Gemma 4: single characters and a few joined ones, "▁" for a space, runs of line breaks, and all bytes."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>"]
    marked = ["<|tool_call>"]
    pairs = ["h e", "▁ t", "▁t he", "\n \n", "\n\n \n\n", "▁ ▁", "l l"]
    letters = ["▁", "\n", *"abcdehlnot"]
    tokens = [
        *control,
        *marked,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *letters,
        *(pair.replace(" ", "") for pair in pairs),
    ]
    metadata = {
        "model": "gemma4",
        "tokens": tokens,
        "token_type": [3] * 4 + [4] + [6] * 256 + [1] * (len(letters) + len(pairs)),
        "merges": pairs,
        "bos_token_id": 2,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in {**metadata, **changes}.items()}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("the hello", ["t", "he", "▁", "he", "ll", "o"]),
        (" the  hen\n\n\n\n\nto", ["▁the", "▁▁", "he", "n", "\n\n\n\n", "\n", "t", "o"]),
        ("a é<|tool_call>\n", ["a", "▁", "<0xC3>", "<0xA9>", "<|tool_call>", "\n"]),
        ("", []),
    ],
)
@pytest.mark.parametrize("kind", [{"model": "gemma4"}, {"model": "gpt2", "pre": "gemma4"}])
def test_gemma4s_characters(kind: dict[str, str], text: str, tokens: list[str]) -> None:
    converted = convert_gguf_tokenizer(_character_metadata(**kind), PATH)
    encoded = converted.tokenizer.encode(text)
    assert encoded.tokens == tokens
    assert converted.tokenizer.decode(encoded.ids) == text
    assert converted.add_bos_token


def test_sarvams_characters_without_bos() -> None:
    converted = convert_gguf_tokenizer(_character_metadata(model="gpt2", pre="sarvam-moe"), PATH)
    assert converted.tokenizer.encode(" the").tokens == ["▁the"]
    assert not converted.add_bos_token


def test_mmberts_lines_begin_with_a_space() -> None:
    tokenizer = convert_gguf_tokenizer(_character_metadata(model="gpt2", pre="mmbert"), PATH).tokenizer
    assert tokenizer.encode("the the\nhe").tokens == ["▁the", "▁the", "\n", "▁", "he"]
    assert tokenizer.encode("a  the").tokens == ["▁", "a", "▁", "▁the"]  # each "▁" begins a word
    assert tokenizer.decode(tokenizer.encode("the he").ids) == "the he"


def test_words_between_whitespace() -> None:
    metadata = {
        "tokenizer.ggml.model": "whitespace",
        "tokenizer.ggml.tokens": ["<unk>", *"tehn", "he", "the"],
        "tokenizer.ggml.token_type": [2, 1, 1, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["h e", "t he"],
    }
    tokenizer = convert_gguf_tokenizer(metadata, PATH).tokenizer
    assert tokenizer.encode("the\n hen ö").tokens == ["the", "he", "n", "<unk>"]


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"pre": "klingon", "model": "gpt2"}, UnsupportedModelError, r"'klingon'.*supported are .*exaone4"),
        ({"merges": ["h q"]}, CheckpointError, "the merge 'h q'"),
    ],
)
def test_characters_that_cannot_be_used(changes: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        convert_gguf_tokenizer(_character_metadata(**changes), PATH)
