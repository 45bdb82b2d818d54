"""Loading a draft model: what is wrong with it is reported early, and by its name."""

import json
from pathlib import Path

import pytest

from engine.config import DType, EngineConfig, KVCacheDType
from engine.engine import Engine
from engine.errors import StartupError
from engine.startup import build
from engine.startup.build import build_engine
from models.architecture.kv_layout import KV_DTYPES
from tests.helpers.checkpoints import llama_config
from tests.helpers.drafting import AlwaysFull
from tests.helpers.engines import make_request
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.models.families.recurrent_variants import lfm2


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("target"))


def _start(target: Path, draft: Path | None, stages: list[str] | None = None, **options: object) -> Engine:
    config = EngineConfig(
        model=str(target),
        draft_model=None if draft is None else str(draft),
        threads=1,
        kv_cache_memory_bytes=2**22,
        **options,  # type: ignore[arg-type]
    )
    return build_engine(config, lambda stage, *_: None if stages is None else stages.append(stage))[0]


def _tokens(engine: Engine, prompt: list[int]) -> tuple[list[int], int]:
    """The tokens of an answer, and how many were drafted for it."""
    engine.add(make_request("a", prompt, max_tokens=40, temperature=0.0, ignore_eos=True))
    tokens: list[int] = []
    num_drafted = 0
    while engine.has_work:
        step = engine.step()
        num_drafted += step.stats.draft_tokens
        for output in step.outputs:
            tokens += output.new_ids
    return tokens, num_drafted


def test_a_misspelled_draft_is_refused_before_the_model_loads(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.startup.load.load_model", None)
    missing = target / "nowhere"
    with pytest.raises(StartupError, match=f"draft model {missing} cannot be used: .* does not exist"):
        _start(target, missing)


def test_a_draft_of_another_vocabulary_is_refused_before_its_weights_are_read(target: Path, tmp_path: Path) -> None:
    draft = write_model_folder(tmp_path)
    tokenizer = json.loads((draft / "tokenizer.json").read_text())
    tokens = tokenizer["model"]["vocab"]
    tokens["A"], tokens["B"] = tokens["B"], tokens["A"]
    (draft / "tokenizer.json").write_text(json.dumps(tokenizer))
    stages: list[str] = []
    with pytest.raises(StartupError, match=r"vocabulary is not the model's.*'A' in the model and 'B' in the draft"):
        _start(target, draft, stages)
    assert stages[-1] == "read tokenizer"


def test_a_draft_with_recurrent_layers_is_refused_before_the_model_is_loaded(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = write_model_folder(tmp_path, lfm2(vocab_size=VOCAB_SIZE))
    monkeypatch.setattr("engine.startup.load.load_model", None)
    with pytest.raises(StartupError, match=f"draft model {draft} has recurrent layers"):
        _start(target, draft)


def test_a_broken_draft_is_distinct_from_the_model(target: Path, tmp_path: Path) -> None:
    draft = write_model_folder(tmp_path)
    (draft / "model.safetensors").write_bytes((draft / "model.safetensors").read_bytes()[:-2000])
    with pytest.raises(StartupError, match=f"the draft model {draft} cannot be used: .*safetensors"):
        _start(target, draft)


@pytest.mark.parametrize("dtype", [KVCacheDType.INT8, KVCacheDType.INT4])
def test_drafts_over_codes_change_no_token(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: KVCacheDType
) -> None:
    """A quantized cache of both models, with rejected drafts and a prefix that is found again."""
    monkeypatch.setattr(build, "Speculator", AlwaysFull)
    options: dict[str, object] = {"kv_cache_dtype": dtype, "dtype": DType.FLOAT32}
    draft = write_model_folder(tmp_path, llama_config(vocab_size=VOCAB_SIZE, num_hidden_layers=1))
    alone, drafting = _start(target, None, **options), _start(target, draft, **options)
    prompts = [list(b"channels and gates of a mill race"), list(b"channels and gates of a mill pond")]

    answers = [[_tokens(engine, prompt) for prompt in prompts] for engine in (alone, drafting)]

    assert [tokens for tokens, _ in answers[0]] == [tokens for tokens, _ in answers[1]]
    assert all(num_drafted > 0 for _, num_drafted in answers[1])
    for model in (drafting._runner._model, drafting._speculator._drafter._runner._model):  # type: ignore
        assert {layout.code_dtype for layout in model.cache_layout.layers} == {KV_DTYPES[dtype.value]}


def test_a_draft_padded_to_another_width_drafts(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "Speculator", AlwaysFull)
    draft = write_model_folder(tmp_path, llama_config(vocab_size=VOCAB_SIZE + 22))
    engine = _start(target, draft)
    assert engine._runner._model.vocab_size == VOCAB_SIZE  # type: ignore[attr-defined]
    engine.add(make_request("a", list(b"channel"), max_tokens=40, temperature=0.0, ignore_eos=True))
    num_drafted = 0
    while engine.has_work:
        num_drafted += engine.step().stats.draft_tokens
    assert num_drafted > 0
    assert not engine._speculator.is_off
