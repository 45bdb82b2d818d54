"""Parity of encoders and of scoring heads: tiny random checkpoints of transformers, whole texts side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import PreTrainedModel

from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.families.registry import POOLING_FAMILIES
from models.forward.packed import PackedForward
from models.kernels.ops import Operations
from models.linear.storage import WeightOptions
from models.pooling.scheme import pool_tokens
from models.quant.tensor import Encoding
from tests.helpers.checkpoints import VOCAB_SIZE, exact_attention, load_folder, random_model
from tests.models.families.pooling_models import POOLING_MODELS
from tests.models.families.test_parity import CPU, Column

LENGTHS = (37, 1, 16, 9)
# Variants from which others differ only in names: these run with all dtypes and back ends.
CORE = (
    ("BertForSequenceClassification", "3 labels"),
    ("ModernBertModel", "other layers"),
    ("ModernBertForSequenceClassification", "mean"),
    ("NomicBertModel", "other theta"),
    ("Qwen3ForSequenceClassification", ""),
)


@dataclass
class Pair:
    """A model of transformers and its checkpoint; `truths`: states and scores of each text, computed alone, in fp32."""

    model: PreTrainedModel
    folder: Path
    column: Column
    texts: list[list[int]]
    types: list[list[int]]
    truths: list[tuple[torch.Tensor, torch.Tensor | None]]
    decoders: dict[object, Decoder] = field(default_factory=dict)

    def decoder(self, dtype: torch.dtype, weights: WeightOptions | None = None) -> Decoder:
        key = (dtype, weights)
        if key not in self.decoders:
            self.decoders[key] = load_folder(self.folder, dtype, self.column.backend, weights, self.column.ops)
        return self.decoders[key]

    def states(self, decoder: Decoder, order: Sequence[int]) -> list[torch.Tensor]:
        """Return states of the texts in `order`, computed in one pass."""
        packed = PackedForward(decoder, torch.device("cpu"))
        lengths = [len(self.texts[index]) for index in order]
        ids, types = ([each for index in order for each in parts[index]] for parts in (self.texts, self.types))
        return list(packed.states(ids, lengths, types).split(lengths))


@pytest.fixture(scope="module", params=["cpu", "torch"])
def column(request: pytest.FixtureRequest) -> Column:
    """All native kernels; and torch everywhere, as on a device without kernels."""
    return CPU if request.param == "cpu" else Column(ReferenceAttention(), Operations())


@pytest.fixture(scope="module", params=CORE, ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, column: Column) -> Pair:
    return make_pair(request.param, tmp_path_factory.mktemp("model"), column)


def make_pair(variant: tuple[str, str], folder: Path, column: Column) -> Pair:
    config = POOLING_MODELS[variant]()
    model = random_model(config, kind=getattr(transformers, variant[0]))
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]
    num_types = getattr(config, "type_vocab_size", 1)
    types = [torch.randint(num_types, (length,), generator=generator).tolist() for length in LENGTHS]
    truths = [truth(model, ids, type_ids) for ids, type_ids in zip(texts, types, strict=True)]
    return Pair(model, folder, column, texts, types, truths)


def truth(model: PreTrainedModel, ids: list[int], types: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States [T, hidden] of the base model, and scores [labels] if it has a head for them."""
    extra = {"token_type_ids": torch.tensor([types])} if hasattr(model.config, "type_vocab_size") else {}
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long), **extra}
    base = getattr(model, model.base_model_prefix, model)
    with torch.inference_mode():
        states = base(**inputs)[0][0].float()
        is_scorer = type(model).__name__.endswith("SequenceClassification")
        return states, model(**inputs).logits[0].float() if is_scorer else None


def test_every_architecture_has_a_variant() -> None:
    assert {name for name, _ in POOLING_MODELS} == set(POOLING_FAMILIES)


@pytest.mark.parametrize("variant", [each for each in POOLING_MODELS if each not in CORE], ids="-".join)
def test_fp32_states_and_scores_of_all_others_equal_transformers(variant: tuple[str, str], tmp_path: Path) -> None:
    pair = make_pair(variant, tmp_path, CPU)
    assert_states_equal(pair, range(len(LENGTHS)))
    assert_scores_equal(pair)


def test_fp32_states_equal_transformers_in_any_order(pair: Pair) -> None:
    for order in ([0, 1, 2, 3], [3, 0], [1]):
        assert_states_equal(pair, order)


def assert_states_equal(pair: Pair, order: Sequence[int]) -> None:
    for index, states in zip(order, pair.states(pair.decoder(torch.float32), order), strict=True):
        torch.testing.assert_close(states, pair.truths[index][0], rtol=0.0, atol=1e-4)


def test_fp32_scores_equal_transformers(pair: Pair) -> None:
    assert_scores_equal(pair)


def assert_scores_equal(pair: Pair) -> None:
    decoder = pair.decoder(torch.float32)
    if decoder.score_head is None or decoder.spec.score_head is None:
        assert pair.truths[0][1] is None
        return
    states = torch.cat(pair.states(decoder, range(len(LENGTHS))))
    with torch.inference_mode():
        scores = decoder.score_head(pool_tokens(states, LENGTHS, decoder.spec.score_head.pooling))
    for row, (_, expected) in zip(scores, pair.truths, strict=True):
        torch.testing.assert_close(row, expected, rtol=0.0, atol=1e-4)


def test_bf16_means_point_where_those_of_fp32_do(pair: Pair) -> None:
    assert lowest_cosine(pair, pair.decoder(torch.bfloat16)) >= 0.999


def test_bf16_errors_are_within_twice_those_of_transformers(pair: Pair) -> None:
    rounded = type(pair.model).from_pretrained(
        pair.folder, dtype=torch.bfloat16, attn_implementation=exact_attention(pair.model.config)
    )
    theirs = torch.cat([truth(rounded, *text)[0] for text in zip(pair.texts, pair.types, strict=True)])
    ours = torch.cat(pair.states(pair.decoder(torch.bfloat16), range(len(LENGTHS))))
    exact = torch.cat([states for states, _ in pair.truths])
    assert (ours - exact).pow(2).mean().sqrt() <= 2 * (theirs - exact).pow(2).mean().sqrt()


def test_int8_means_point_where_those_of_fp32_do(pair: Pair) -> None:
    weights = WeightOptions(quantize_to=Encoding.INT8)
    assert lowest_cosine(pair, pair.decoder(torch.bfloat16, weights)) >= 0.99


def lowest_cosine(pair: Pair, decoder: Decoder) -> float:
    """Return the lowest cosine of the texts' means with the true means, for models with random weights."""
    cosines = [
        F.cosine_similarity(ours.mean(0), states.mean(0), dim=0)
        for ours, (states, _) in zip(pair.states(decoder, range(len(LENGTHS))), pair.truths, strict=True)
    ]
    return float(torch.stack(cosines).min())
