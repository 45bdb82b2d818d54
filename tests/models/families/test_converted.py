"""GGUF files of llama.cpp's own converter give the log probabilities of transformers, over the whole vocabulary."""

import lzma
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.families.registry import FAMILIES, MULTIMODAL
from tests.helpers.checkpoints import load_gguf
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.converted_files import CONVERTED, NOT_CONVERTED, converted_architectures

FIXTURES = Path(__file__).parents[2] / "fixtures/converted"


@pytest.mark.parametrize("name", CONVERTED)
def test_log_probabilities_of_a_converted_file_equal_transformers(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(lzma.decompress((FIXTURES / f"{name}.gguf.xz").read_bytes()))
    expected = load_file(FIXTURES / f"{name}.safetensors")

    logits = PagedRun(load_gguf([path])).step([(PagedSequence(), expected["ids"].tolist())])[0]

    ours, theirs = (torch.log_softmax(rows, -1) for rows in (logits[expected["rows"]], expected["logits"]))
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-4)


def test_every_architecture_with_gguf_files_has_a_converted_one_or_says_why_not() -> None:
    in_gguf = {name for name, entry in FAMILIES.items() if entry.gguf or entry.gguf_as}
    in_gguf |= {name for name, entry in MULTIMODAL.items() if entry.gguf}

    assert in_gguf == converted_architectures() | NOT_CONVERTED.keys()
    assert not converted_architectures() & NOT_CONVERTED.keys()


def test_fixtures_are_those_in_the_list() -> None:
    written = {path.name for path in FIXTURES.iterdir() if path.suffix in (".xz", ".safetensors")}

    assert written == {f"{name}{end}" for name in CONVERTED for end in (".gguf.xz", ".safetensors")}
