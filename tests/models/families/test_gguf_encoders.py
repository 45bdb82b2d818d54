"""Parity of encoders in GGUF files: their hidden states equal those of the file's weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from transformers import PreTrainedModel

from models.attention.base import AttentionBackend
from models.attention.select import PREFERENCE, load_backend
from models.errors import UnsupportedModelError
from models.forward.packed import PackedForward
from tests.helpers.checkpoints import VOCAB_SIZE, load_gguf, random_model
from tests.helpers.gguf_encoders import ENCODER_LAYOUTS
from tests.helpers.gguf_writer import write_gguf
from tests.models.families.pooling_models import POOLING_MODELS

LENGTHS = (37, 1, 16, 9)
VARIANTS = [
    ("BertModel", ""),
    ("BertModel", "without types"),
    ("ModernBertModel", ""),
    ("ModernBertModel", "other layers"),
    ("NomicBertModel", ""),
    ("NomicBertModel", "other theta"),
    ("RobertaModel", ""),
    ("XLMRobertaModel", ""),
]
BACKEND = load_backend(PREFERENCE["cpu"][0])


def write(
    variant: tuple[str, str],
    path: Path,
    kind: Kind | Callable[[str], Kind] = Kind.F32,
    adds: Callable[[GGUFWriter], None] = lambda _: None,
    **changes: Any,
) -> PreTrainedModel:
    config = POOLING_MODELS[variant]()
    for name, value in {**changes, **implied(config.model_type)}.items():
        setattr(config, name, value)
    model = random_model(config, kind=getattr(transformers, variant[0]))
    write_gguf(model, path, kind, adds=adds, layout=ENCODER_LAYOUTS[config.model_type])
    return model


def implied(model_type: str) -> dict[str, object]:
    """Return the values of fields that files do not state and readers assume."""
    return {"hidden_act": "gelu"} if model_type == "bert" else {}


def texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]


def true_states(model: PreTrainedModel) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(torch.tensor([ids]))[0][0].float() for ids in texts()]


def states(path: Path, dtype: torch.dtype = torch.float32, backend: AttentionBackend = BACKEND) -> list[torch.Tensor]:
    packed = PackedForward(load_gguf([path], dtype, backend), torch.device("cpu"))
    return list(packed.states([each for ids in texts() for each in ids], LENGTHS).split(LENGTHS))


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_states_equal_transformers(tmp_path: Path, variant: tuple[str, str]) -> None:
    model = write(variant, tmp_path / "m.gguf")
    for ours, true in zip(states(tmp_path / "m.gguf"), true_states(model), strict=True):
        torch.testing.assert_close(ours, true, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0])
def test_states_are_those_of_the_rounded_weights(tmp_path: Path, kind: Kind) -> None:
    model = write(("BertModel", ""), tmp_path / "m.gguf", kind)
    for ours, true in zip(states(tmp_path / "m.gguf"), true_states(model), strict=True):
        torch.testing.assert_close(ours, true, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize(("kind", "lowest"), [(Kind.F32, 0.999), (Kind.Q8_0, 0.999), (Kind.Q5_K, 0.995)])
def test_means_in_bf16_and_integers_point_where_those_of_fp32_do(tmp_path: Path, kind: Kind, lowest: float) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512} if kind is Kind.Q5_K else {}
    model = write(("BertModel", ""), tmp_path / "m.gguf", kind, **sizes)
    for ours, true in zip(states(tmp_path / "m.gguf", torch.bfloat16), true_states(model), strict=True):
        assert F.cosine_similarity(ours.mean(0), true.mean(0), dim=0) >= lowest


def test_files_of_causal_models_are_refused(tmp_path: Path) -> None:
    write(("BertModel", ""), tmp_path / "m.gguf", adds=lambda writer: writer.add_causal_attention(True))
    with pytest.raises(UnsupportedModelError, match=r"attention\.causal is true"):
        states(tmp_path / "m.gguf")


def test_types_of_a_model_with_only_one_are_that_one(tmp_path: Path) -> None:
    """A tokenizer may number the two texts of a pair although the model has no such types, as RoBERTa."""
    write(("XLMRobertaModel", ""), tmp_path / "m.gguf")
    packed = PackedForward(load_gguf([tmp_path / "m.gguf"], torch.float32, BACKEND), torch.device("cpu"))
    ids = texts()[0]
    numbered = packed.states(ids, [len(ids)], [index % 2 for index in range(len(ids))])
    torch.testing.assert_close(numbered, packed.states(ids, [len(ids)]), rtol=0.0, atol=0.0)
