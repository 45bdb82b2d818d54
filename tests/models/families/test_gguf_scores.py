"""Rerankers and classifiers of RoBERTa's kind in GGUF files give transformers' scores."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import PreTrainedModel, XLMRobertaTokenizer

from models.attention.select import PREFERENCE, load_backend
from models.decoder import Decoder
from models.errors import UnsupportedModelError
from models.forward.packed import PackedForward
from models.loading.load import LoadOptions, load_model
from models.loading.open import open_model
from models.pooling.scheme import pool_tokens
from models.pooling.traits import ScoreActivation, pooling_traits
from models.sources.resolve import ModelFiles
from server.text.input_encoder import EncodedInput, InputEncoder
from server.text.tokenizer import Tokenizer
from tests.helpers.checkpoints import VOCAB_SIZE, load_gguf, random_model
from tests.helpers.gguf_encoders import ENCODER_LAYOUTS
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.tokenizers import info_of
from tests.helpers.unigram import CHARSMAP, PIECES, SPECIAL, TOKENS, unigram_metadata
from tests.models.families.pooling_models import POOLING_MODELS

BACKEND = load_backend(PREFERENCE["cpu"][0])
F32 = GGMLQuantizationType.F32
LENGTHS = (37, 1, 16)


def write(
    kind: str, path: Path, adds: Callable[[GGUFWriter], None] = lambda _: None, **changes: object
) -> PreTrainedModel:
    config = POOLING_MODELS[kind, ""]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = random_model(config, kind=getattr(transformers, kind))
    write_gguf(model, path, F32, adds=adds, layout=ENCODER_LAYOUTS[config.model_type])
    return model


def scores_of(decoder: Decoder, texts: list[list[int]]) -> torch.Tensor:
    assert decoder.score_head is not None
    assert decoder.spec.score_head is not None
    lengths = [len(ids) for ids in texts]
    packed = PackedForward(decoder, torch.device("cpu"))
    states = packed.states([each for ids in texts for each in ids], lengths)
    with torch.inference_mode():
        return decoder.score_head(pool_tokens(states, lengths, decoder.spec.score_head.pooling))


@pytest.mark.parametrize(
    ("kind", "num_labels"),
    [("XLMRobertaForSequenceClassification", 1), ("RobertaForSequenceClassification", 3)],
)
def test_scores_equal_transformers(tmp_path: Path, kind: str, num_labels: int) -> None:
    model = write(kind, tmp_path / "m.gguf", num_labels=num_labels)
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]
    with torch.inference_mode():
        expected = torch.stack([model(torch.tensor([ids])).logits[0].float() for ids in texts])
    scores = scores_of(load_gguf([tmp_path / "m.gguf"], torch.float32, BACKEND), texts)
    torch.testing.assert_close(scores, expected, rtol=0.0, atol=1e-4)


def test_labels_are_those_of_the_file(tmp_path: Path) -> None:
    names = ["bad", "fair", "good"]
    write(
        "RobertaForSequenceClassification",
        tmp_path / "m.gguf",
        lambda writer: writer.add_classifier_output_labels(names),
        num_labels=3,
    )
    opened = open_model(ModelFiles(None, (tmp_path / "m.gguf",), "m"))
    traits = pooling_traits(opened.spec, opened.config, None, opened.gguf_metadata)
    assert (traits.labels, traits.activation) == (tuple(names), ScoreActivation.SOFTMAX)


def test_bert_without_its_dense_layer_is_refused(tmp_path: Path) -> None:
    def only_the_last_layer(writer: GGUFWriter) -> None:
        writer.add_tensor("cls.output.weight", torch.ones(64).numpy())

    config = POOLING_MODELS["BertModel", ""]()
    model = random_model(config, kind=transformers.BertModel)
    write_gguf(model, tmp_path / "m.gguf", F32, adds=only_the_last_layer, layout=ENCODER_LAYOUTS["bert"])
    with pytest.raises(UnsupportedModelError, match=r"without its first layer \(cls\.weight\)"):
        load_gguf([tmp_path / "m.gguf"], torch.float32, BACKEND)


def test_pairs_of_texts_get_the_scores_of_the_original(tmp_path: Path) -> None:
    """The tokenizer comes from the same file."""

    def with_tokenizer(writer: GGUFWriter) -> None:
        written = {"bos_token_id", "eos_token_id"}  # by every file
        for key, value in unigram_metadata().items():
            if isinstance(value, list):
                writer.add_array(key, bytes(value) if key.endswith("charsmap") else value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif key.removeprefix("tokenizer.ggml.") not in written:
                writer.add_uint32(key, value)

    path = tmp_path / "m.gguf"
    model = write("XLMRobertaForSequenceClassification", path, with_tokenizer, vocab_size=len(TOKENS))
    vocabulary = [*((token, 0.0) for token in SPECIAL), *PIECES.items(), ("<mask>", 0.0)]
    reference = XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=CHARSMAP)
    pairs = [("the ﬁne boat", "a boat floats."), ("the boat", "A zq 中")]
    with torch.inference_mode():
        expected = [model(**reference(*pair, return_tensors="pt")).logits[0, 0].float() for pair in pairs]
    loaded = load_model(ModelFiles(None, (path,), "m"), LoadOptions(dtype="float32"), lambda *_: None)
    inputs: list[EncodedInput] = InputEncoder(Tokenizer(info_of(loaded.tokenizer))).pairs(pairs)
    assert all(each.type_ids is None for each in inputs)
    scores = scores_of(loaded.decoder, [each.ids for each in inputs])
    torch.testing.assert_close(scores[:, 0], torch.stack(expected), rtol=0.0, atol=1e-4)
    assert loaded.pooling is not None
    assert loaded.pooling.activation is ScoreActivation.SIGMOID
