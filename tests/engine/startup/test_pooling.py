"""From a folder to a pooling engine: what it is used for, what it says of itself, and the vectors of its texts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models
from transformers import PretrainedConfig

from engine.commands import weigh
from engine.config import Device, DType, EngineConfig, Pooling, Task
from engine.engine import Engine
from engine.errors import HeadraceError, ModelUnusable, StartupError
from engine.pooling.engine import PoolingEngine
from engine.protocol import EngineInfo, PoolingParams, PoolingRequest, PoolingTask
from engine.startup.build import build_engine, build_served_engine
from engine.startup.pooling import check_pooling_options
from models.pooling.traits import PoolingTraits
from tests.helpers.checkpoints import VOCAB_SIZE, random_model
from tests.helpers.pooling_folders import write_dense, write_json, write_modules, write_pooling
from tests.models.families.pooling_models import POOLING_MODELS, small_qwen3
from tests.models.families.state_space_variants import mamba2

TEXTS = [[5, 6, 7, 8], [9], list(range(3, 30))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    made: dict[tuple[str, str], Path] = {}

    def folder(architecture: str, variant: str = "") -> Path:
        if (architecture, variant) not in made:
            make = POOLING_MODELS.get((architecture, variant), small_qwen3)
            made[architecture, variant] = _write(make(), architecture, tmp_path_factory.mktemp("model"))
        return made[architecture, variant]

    return folder


def _write(config: PretrainedConfig, architecture: str, path: Path) -> Path:
    random_model(config, kind=getattr(transformers, architecture)).save_pretrained(path)
    tokenizer = Tokenizer(models.WordLevel({f"t{number}": number for number in range(VOCAB_SIZE)}, unk_token="t0"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def _config(folder: Path, **options: object) -> EngineConfig:
    fixed = {"device": Device.CPU, "dtype": DType.FLOAT32, "threads": 1, "weight_cache": False}
    return EngineConfig(str(folder), **{**fixed, **options})  # type: ignore[arg-type]


def _built(folder: Path, **options: object) -> tuple[PoolingEngine, EngineInfo]:
    engine, info = build_served_engine(_config(folder, **options), lambda *_: None)
    assert isinstance(engine, PoolingEngine)
    return engine, info


def _pooled(engine: PoolingEngine, **params: object) -> list[torch.Tensor]:
    """Of TEXTS, in one batch."""
    asked = PoolingParams(**{"task": PoolingTask.EMBED, **params})  # type: ignore[arg-type]
    engine.add([PoolingRequest(id=str(n), prompt_ids=ids, params=asked, arrival_s=0.0) for n, ids in enumerate(TEXTS)])
    outputs = {output.id: output for output in engine.step().outputs}
    assert not engine.has_work
    assert [outputs[str(n)].error for n in range(len(TEXTS))] == [None] * len(TEXTS)
    found = [outputs[str(n)] for n in range(len(TEXTS))]
    return [torch.frombuffer(bytearray(each.values), dtype=torch.float32).view(each.shape) for each in found]


def _truths(folder: Path, architecture: str) -> list[torch.Tensor]:
    """States of each text's tokens, or scores."""
    model = getattr(transformers, architecture).from_pretrained(folder)
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids]))[0][0] for ids in TEXTS]


def _assert_close(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for text, truth in zip(ours, expected, strict=True):
        torch.testing.assert_close(text, truth, rtol=0.0, atol=1e-4)


def test_modules_decide_how_texts_are_pooled(tmp_path: Path) -> None:
    folder = _write(POOLING_MODELS["BertModel", ""](), "BertModel", tmp_path)
    weight, bias = torch.randn(8, 64), torch.randn(8)
    write_modules(folder, ["Transformer", "Pooling", "Dense", "Normalize"])
    write_pooling(folder, pooling_mode_mean_tokens=True)
    write_dense(folder, weight, bias, "Tanh")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 30})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "q: "}})

    engine, info = _built(folder)

    assert info.pooling is not None
    assert info.pooling.tasks == [PoolingTask.EMBED, PoolingTask.TOKEN_EMBED]
    assert (info.pooling.dimensions, info.pooling.max_input_tokens, info.max_model_len) == (8, 30, 30)
    assert (info.pooling.normalize, info.pooling.prompts, info.pooling.matryoshka) == (True, {"query": "q: "}, None)
    assert Tokenizer.from_str(info.tokenizer.tokenizer_json.decode()).padding is None
    truths = _truths(folder, "BertModel")
    pooled = [torch.tanh(F.linear(states.mean(0), weight, bias)) for states in truths]
    _assert_close(_pooled(engine), [F.normalize(vector, dim=0) for vector in pooled])
    _assert_close(_pooled(engine, normalize=False), pooled)
    _assert_close(_pooled(engine, task=PoolingTask.TOKEN_EMBED), truths)


def test_an_encoder_without_modules_has_the_mean(folders: Callable[..., Path]) -> None:
    folder = folders("NomicBertModel")
    engine, info = _built(folder, hf_overrides='{"is_matryoshka": true}')
    assert info.pooling is not None
    assert (info.pooling.pooling, info.pooling.matryoshka, info.pooling.dimensions) == ("mean", [], 64)
    means = [states.mean(0) for states in _truths(folder, "NomicBertModel")]
    _assert_close(_pooled(engine), [F.normalize(mean, dim=0) for mean in means])
    _assert_close(_pooled(engine, dimensions=8), [F.normalize(mean[:8], dim=0) for mean in means])


@pytest.mark.parametrize(("pooling", "row"), [(Pooling.AUTO, -1), (Pooling.LAST, -1), (Pooling.CLS, 0)])
def test_a_decoder_embeds_on_demand(folders: Callable[..., Path], pooling: Pooling, row: int) -> None:
    folder = folders("Qwen3ForCausalLM")
    engine, _ = _built(folder, task=Task.EMBED, pooling=pooling)
    base = transformers.Qwen3Model.from_pretrained(folder)
    with torch.inference_mode():
        states = [base(input_ids=torch.tensor([ids]))[0][0] for ids in TEXTS]
    _assert_close(_pooled(engine), [F.normalize(each[row], dim=0) for each in states])


def test_a_decoder_generates_unless_it_comes_with_modules(tmp_path: Path) -> None:
    folder = _write(small_qwen3(), "Qwen3ForCausalLM", tmp_path)
    assert isinstance(build_served_engine(_config(folder), lambda *_: None)[0], Engine)
    write_modules(folder)
    write_pooling(folder, pooling_mode_lasttoken=True)
    _, info = _built(folder)
    assert info.pooling is not None
    assert info.pooling.pooling == "last"
    assert isinstance(build_engine(_config(folder, task=Task.GENERATE), lambda *_: None)[0], Engine)


def test_a_classifier_gives_its_labels_scores(folders: Callable[..., Path]) -> None:
    folder = folders("BertForSequenceClassification", "3 labels")
    engine, info = _built(folder)
    assert info.pooling is not None
    assert info.pooling.tasks == [PoolingTask.CLASSIFY]
    assert (info.pooling.labels, info.pooling.activation) == (["LABEL_0", "LABEL_1", "LABEL_2"], "softmax")
    logits = _truths(folder, "BertForSequenceClassification")
    _assert_close(_pooled(engine, task=PoolingTask.CLASSIFY), [each.softmax(0) for each in logits])
    _assert_close(_pooled(engine, task=PoolingTask.CLASSIFY, normalize=False), logits)


def test_a_cross_encoder_scores_by_the_activation_that_it_states(folders: Callable[..., Path]) -> None:
    folder = folders("XLMRobertaForSequenceClassification")
    engine, info = _built(folder)
    assert info.pooling is not None
    assert info.pooling.tasks == [PoolingTask.CLASSIFY, PoolingTask.SCORE]
    logits = _truths(folder, "XLMRobertaForSequenceClassification")
    _assert_close(_pooled(engine, task=PoolingTask.SCORE), [each.sigmoid() for each in logits])
    stated = '{"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}'
    engine, _ = _built(folder, hf_overrides=stated)
    _assert_close(_pooled(engine, task=PoolingTask.SCORE), logits)


@pytest.mark.parametrize(
    ("architecture", "options", "reason"),
    [
        ("BertModel", {"task": Task.GENERATE}, "--task is generate, but this model has no output layer"),
        ("BertModel", {"kv_cache_memory_bytes": 1 << 20}, "--kv-cache-memory-bytes is for models that generate"),
        ("BertModel", {"max_model_len": 100}, "--max-model-len is 100; the model takes at most 66 tokens"),
        ("XLMRobertaForSequenceClassification", {"pooling": Pooling.CLS}, "has a head that gives scores"),
        ("Qwen3ForCausalLM", {"pooling": Pooling.CLS}, "this model generates text; add --task embed"),
    ],
)
def test_options_that_do_not_suit_the_model_are_refused(
    folders: Callable[..., Path], architecture: str, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(HeadraceError, match=reason):
        build_served_engine(_config(folders(architecture), **options), lambda *_: None)


def test_recurrent_layers_are_refused_before_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _write(mamba2(), "Mamba2ForCausalLM", tmp_path)
    monkeypatch.delattr("models.loading.load.build_decoder")

    with pytest.raises(ModelUnusable, match="Mamba2ForCausalLM has recurrent layers, and headrace cannot make embed"):
        build_served_engine(_config(folder, task=Task.EMBED), lambda *_: None)


def test_a_command_that_generates_refuses_a_model_that_does_not(folders: Callable[..., Path]) -> None:
    with pytest.raises(StartupError, match="NomicBertModel makes vectors or scores of texts, and does not generate"):
        build_engine(_config(folders("NomicBertModel")), lambda *_: None)


def test_its_memory_is_weighed_without_a_kv_cache(folders: Callable[..., Path]) -> None:
    pooling = weigh._weigh(_config(folders("Qwen3ForCausalLM"), task=Task.EMBED))
    generating = weigh._weigh(_config(folders("Qwen3ForCausalLM"), max_num_seqs=256))
    assert pooling.failure is generating.failure is None
    assert pooling.least_kv_bytes == pooling.most_kv_bytes < generating.most_kv_bytes
    assert weigh._weigh(_config(folders("BertModel"))).weight_bytes > 0


def test_what_cannot_pool_is_refused_where_it_is_to_pool() -> None:
    """As a reranker in a GGUF file, whose decoder generates."""
    traits = PoolingTraits(False, pools_by_default=False, can_generate=True, hidden_size=8, refusal="is a reranker")
    assert not check_pooling_options(EngineConfig("m.gguf"), traits)
    assert not check_pooling_options(EngineConfig("m.gguf", task=Task.GENERATE), traits)
    with pytest.raises(StartupError, match="is a reranker"):
        check_pooling_options(EngineConfig("m.gguf", task=Task.EMBED), traits)
