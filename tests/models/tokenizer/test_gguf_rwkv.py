"""RWKV's vocabularies in GGUF files: the longest token that the rest of a text begins with comes next."""

import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from models.checkpoints.gguf.header import read_gguf_header
from models.config.hf_config import HFConfig
from models.errors import CheckpointError
from models.sources.resolve import ModelFiles
from models.tokenizer.gguf import convert_gguf_tokenizer
from models.tokenizer.gguf_templates import NAMED_TEMPLATES
from models.tokenizer.load import load_tokenizer_assets
from server.text.pieces import find_cuts
from server.text.token_bound import find_token_bound
from server.text.token_bytes import TokenBytes

PATH = Path("m.gguf")
WORDS = [
    b"ab",
    b"abcd",
    b"bcde",
    b" the",
    b"\n\n",
    b"\t\t",
    b"\\n",
    b"[^",
    b"a-",
    b"$1",
    b"'s",
    b"(?",
    b"\xe4\xbd",
    b"\xe4\xbd\xa0\xe5",
    b"\xff\xfe",
]


CONVERTED = Path(__file__).parents[2] / "fixtures/converted/rwkv7.gguf.xz"
LLAMA_SERVER = {
    "the brown the over\n\n over's": [263, 33, 99, 115, 112, 120, 111, 262, 265, 261, 265, 267],
    "你好 the\t\n\t\tx": [266, 230, 166, 190, 262, 258, 257, 121],
    "[PAD280] a é🙂 \x00": [280, 33, 98, 33, 196, 170, 241, 160, 154, 131, 33, 1],
    "<s> the <s>": [0, 262, 33, 0],
}


def tokens() -> list[bytes]:
    return [b"<s>", *(bytes([byte]) for byte in range(256)), *WORDS]


def metadata(listed: list[bytes] | None = None, **changes: Any) -> dict[str, Any]:
    listed = tokens() if listed is None else listed
    fields = {
        "model": "rwkv",
        "tokens": [listed[0].decode(), *(repr(token)[2:-1] for token in listed[1:]), "[PAD7]"],
        "token_type": [3, *[1] * (len(listed) - 1), 5],
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


def greedy(text: str) -> list[int]:
    data, ids, start = text.encode(), [], 0
    known = {token: token_id for token_id, token in enumerate(tokens()) if token_id}
    while start < len(data):
        token = max((token for token in known if data.startswith(token, start)), key=len)
        ids.append(known[token])
        start += len(token)
    return ids


def test_longest_token_comes_next() -> None:
    tokenizer = convert_gguf_tokenizer(metadata(), PATH).tokenizer

    assert [tokens()[token_id] for token_id in tokenizer.encode("abcde the").ids] == [b"abcd", b"e", b" the"]
    assert [tokens()[token_id] for token_id in tokenizer.encode("abcabc").ids] == [b"ab", b"c", b"ab", b"c"]
    assert tokenizer.encode("[PAD7]").ids == [len(tokens())]


def test_random_texts_have_the_tokens_of_a_greedy_search_and_come_back() -> None:
    converted, generator = convert_gguf_tokenizer(metadata(), PATH), random.Random(0)
    for _ in range(200):
        parts = generator.choices([*tokens()[1:], *WORDS * 5, "你".encode(), "é🙂".encode()], k=20)
        text = b"".join(parts).decode("utf-8", "ignore")

        ids = converted.tokenizer.encode(text).ids

        assert ids == greedy(text)
        assert converted.tokenizer.decode(ids) == text


def test_every_token_stands_for_its_bytes() -> None:
    converted = convert_gguf_tokenizer(metadata(), PATH)
    bytes_of = TokenBytes(converted.tokenizer.decoder).of

    assert [bytes_of(converted.tokenizer.id_to_token(index)) for index in range(len(tokens()))] == tokens()
    assert (converted.control_ids, converted.add_bos_token) == ([0], False)


def test_long_texts_can_be_cut_unless_a_token_crosses_words() -> None:
    for extra, can_cut in (([], True), ([b"end of"], False)):
        listed = [*tokens(), *extra]
        tokenizer = convert_gguf_tokenizer(metadata(listed), PATH).tokenizer

        bound = find_token_bound(tokenizer, [*listed, b"[PAD7]"], is_byte_level=True)

        assert bound is not None
        assert (find_cuts(tokenizer, bound) is not None) is can_cut


def test_vocabulary_without_a_byte_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"m\.gguf has no token for the byte 0x41; convert the model again"):
        convert_gguf_tokenizer(metadata([token for token in tokens() if token != b"A"]), PATH)


def test_ids_are_those_of_llama_server(tmp_path: Path) -> None:
    """Of b11434, with the file that llama.cpp's converter made."""
    path = tmp_path / "m.gguf"
    path.write_bytes(lzma.decompress(CONVERTED.read_bytes()))
    tokenizer = convert_gguf_tokenizer(read_gguf_header(path).metadata, path).tokenizer

    for text, ids in LLAMA_SERVER.items():
        assert tokenizer.encode(text).ids == ids


@pytest.mark.parametrize("template", ["rwkv-world", "{{ messages }}"])
def test_named_chat_template_has_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    fields = metadata(bos_token_id=0, eos_token_id=0, eot_token_id=tokens().index(b"\n\n"))

    assets = load_tokenizer_assets(
        ModelFiles(None, (PATH,), "m"), HFConfig({}, "m"), {**fields, "tokenizer.chat_template": template}
    )

    assert assets.chat_template == NAMED_TEMPLATES.get(template, template)
    assert assets.eos_token_ids == [0, tokens().index(b"\n\n")]
    assert (assets.bos_token_id, assets.add_bos_token) == (0, False)
