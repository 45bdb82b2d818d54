"""engine/quality: what quantization costs is measured, bounded, stored beside the weights and found again."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from engine.config import DType, EngineConfig, Quantization
from engine.errors import StartupError
from engine.protocol import EngineInfo, Quality
from engine.quality import measure, records, report
from engine.quality.eval_chunks import builtin_text, chunk_targets, split_into_chunks
from engine.quality.measure import Predictions, ReferenceModel
from engine.quality.records import FILE_NAME
from engine.startup.build import build_engine
from models.forward.chunk_batches import BLOCK_SIZE, step_batches, step_lengths
from models.kernels.cpu import build as cpu_build
from models.kernels.cpu import operations as cpu_operations
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import ModelFiles, resolve_model
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.model_folders import write_model_folder
from tests.helpers.tokenizers import byte_level_json

TEXT = "The channel that feeds the wheel is called a headrace; what leads the water away is the tailrace. " * 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def short_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "builtin_text", lambda: TEXT)
    monkeypatch.setattr(records, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder of its own, with the checkpoint's files."""
    own = tmp_path / "model"
    own.mkdir()
    for path in checkpoint.iterdir():
        os.link(path, own / path.name)
    yield own
    own.chmod(0o755)


def start(folder: Path, *, quality_report: bool = True, **options: object) -> EngineInfo:
    stages: list[str] = []
    config = EngineConfig(
        model=str(folder),
        kv_cache_memory_bytes=2**22,
        quality_report=quality_report,
        **options,  # type: ignore[arg-type]
    )
    _, info = build_engine(config, lambda stage, *_: stages.append(stage))
    info.notes.append(f"stages: {sorted(set(stages))}")
    return info


def quality_of(info: EngineInfo) -> Quality:
    assert info.quality is not None
    return info.quality


@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT32])
def test_weights_as_they_are_lose_nothing(folder: Path, dtype: DType) -> None:
    quality = quality_of(start(folder, dtype=dtype))
    assert quality.kl_divergence == pytest.approx(0.0, abs=1e-6)
    assert quality.top1_agreement == 1.0
    assert quality.loss == pytest.approx(0.0, abs=1e-6)
    assert quality.num_tokens > 300


def test_fewer_bits_lose_more(folder: Path) -> None:
    int8 = quality_of(start(folder, quantization=Quantization.INT8))
    int4 = quality_of(start(folder, quantization=Quantization.INT4))
    assert 0.0 < int8.kl_divergence < int4.kl_divergence
    assert 1.0 > int8.top1_agreement > int4.top1_agreement
    assert int8.reference_perplexity == int4.reference_perplexity


def test_quality_is_told_at_the_start(folder: Path) -> None:
    info = start(folder, quantization=Quantization.INT8)
    (line,) = [note for note in info.notes if note.startswith("Quality:")]
    assert f"{quality_of(info).perplexity:.4g} against {quality_of(info).reference_perplexity:.4g}" in line
    assert f"reference: {folder} unquantized, in bfloat16" in line
    assert info.weight_formats["int8"] == 14


def test_a_known_quality_is_shown_by_starts_that_do_not_ask(folder: Path) -> None:
    assert start(folder, quality_report=False, quantization=Quantization.INT8).quality is None
    known = quality_of(start(folder, quantization=Quantization.INT8))
    info = start(folder, quality_report=False, quantization=Quantization.INT8)
    assert info.quality == known
    assert "'measure quality'" not in info.notes[-1]
    assert start(folder, quality_report=False).quality is None


def test_a_start_beyond_the_bound_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    likely = (greedy_tokens(loaded(folder)),)  # any damage makes what the model itself would say less likely
    monkeypatch.setattr(report, "split_into_chunks", lambda *_: likely)
    quality = quality_of(start(folder, quantization=Quantization.INT4))
    assert quality.loss > 0.0
    message = r"raises the perplexity from [\d.]+ to [\d.]+, by .*--max-quality-loss is 0.00%"
    with pytest.raises(StartupError, match=message):
        start(folder, quantization=Quantization.INT4, max_quality_loss=0.0)
    start(folder, quantization=Quantization.INT4, max_quality_loss=quality.loss)


def test_a_measurement_without_a_number_is_beyond_any_bound() -> None:
    broken = Quality(
        kl_divergence=math.nan,
        top1_agreement=0.0,
        perplexity=math.nan,
        reference_perplexity=3.0,
        num_tokens=1,
        reference="x",
    )
    with pytest.raises(StartupError, match="max-quality-loss"):
        report.check_quality(broken, 10.0, remedy="")
    with pytest.raises(StartupError, match=r"from 3 to nan, not a finite number; take more bits"):
        report.check_quality(broken, None, remedy="take more bits")
    nothing = msgspec.structs.replace(broken, perplexity=3.0, reference_perplexity=math.nan)
    with pytest.raises(StartupError, match="unquantized weights is nan"):
        report.check_quality(nothing, None, remedy="")


def test_quality_is_stored_and_found_until_something_changes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "engine.quality")
    first = start(folder, quantization=Quantization.INT8)
    second = start(folder, quantization=Quantization.INT8)
    assert second.quality == first.quality
    assert "reference" in first.notes[-1]
    assert "reference" not in second.notes[-1]
    assert "reference" in start(folder, quantization=Quantization.NF4).notes[-1]
    original = (folder / "model.safetensors").read_bytes()
    write_anew(folder / "model.safetensors", original[:-1] + bytes([original[-1] ^ 1]))
    assert "has no quality with these options" in caplog.text  # of NF4's
    assert "of other weights" not in caplog.text
    for _ in range(2):  # it is found out once
        notes = start(folder, quality_report=False, quantization=Quantization.INT8).notes
    assert "of other weights" in caplog.text
    assert "'hash weights'" not in notes[-1]
    assert "reference" in start(folder, quantization=Quantization.INT8).notes[-1]
    assert len(json.loads((folder / FILE_NAME).read_text())["records"]) == 3
    write_anew(folder / "model.safetensors", original)
    assert start(folder, quality_report=False, quantization=Quantization.INT8).quality == first.quality


def test_missing_quality_is_reported_only_where_it_was_requested(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "engine.quality")
    start(folder, quantization=Quantization.INT8)
    start(folder, quality_report=False, quantization=Quantization.NF4)
    assert "has no quality with these options" not in caplog.text
    start(folder, quantization=Quantization.NF4)
    assert "has no quality with these options" in caplog.text


def write_anew(path: Path, data: bytes) -> None:
    path.unlink()  # a link to what other tests read
    path.write_bytes(data)


def test_weights_that_change_meanwhile_store_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = ModelFiles(folder, (), "m")
    quality = quality_of(start(folder))
    (folder / FILE_NAME).unlink()
    measured = records.QualityRecords(files, ignore)
    data = (folder / "model.safetensors").read_bytes()
    write_anew(folder / "model.safetensors", data[:-1] + bytes([data[-1] ^ 1]))
    measured.store({"a": "b"}, quality)
    assert "the weights have changed since they were loaded" in caplog.text
    assert not (folder / FILE_NAME).exists()


def test_weights_that_cannot_be_read_again_end_no_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(records, "_hash_of", fail)
    assert start(folder, quantization=Quantization.INT8).quality is not None
    assert "the weights cannot be read again ([Errno 5] Input/output error)" in caplog.text


def ignore(*_: object) -> None:
    """Of progress."""


def test_a_copy_is_known_by_its_contents_and_from_then_on_by_its_times(folder: Path, tmp_path: Path) -> None:
    quality = quality_of(start(folder, quantization=Quantization.INT8))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    first = start(copy, quality_report=False, quantization=Quantization.INT8)
    second = start(copy, quality_report=False, quantization=Quantization.INT8)
    assert first.quality == second.quality == quality
    assert "'hash weights'" in first.notes[-1]
    assert "'hash weights'" not in second.notes[-1]


def test_a_record_that_cannot_be_finished_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "set_default_modes", fail)
    before = sorted(folder.iterdir())
    start(folder, quantization=Quantization.INT8)
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_leaves_it_to_the_cache(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / FILE_NAME).mkdir()  # root may write into any folder, but not over a folder
    first = start(folder, quantization=Quantization.INT8)
    assert any("the measured quality is stored in" in record.message for record in caplog.records)
    assert "reference" not in start(folder, quantization=Quantization.INT8).notes[-1]
    assert first.quality is not None


SOUND = {
    "kl_divergence": 0.1,
    "top1_agreement": 0.9,
    "perplexity": 9.0,
    "reference_perplexity": 8.0,
    "num_tokens": 5,
    "reference": "x",
}


@pytest.mark.parametrize(
    "contents",
    [
        b'{"records": [{"key": 3}]}',
        b'{"records": [], "hashes": []}',
        b'{"records": [{"key": {"a": "\xff"}}]}',
        b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        *(
            json.dumps({"records": [{"key": {}, "quality": {**SOUND, **change}}]}).encode()
            for change in ({"reference_perplexity": 0}, {"perplexity": -5}, {"num_tokens": 10**400}, {"num_tokens": 0})
        ),
    ],
)
def test_records_that_are_not_ours_are_measured_again(
    folder: Path, contents: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / FILE_NAME).write_bytes(contents)
    assert start(folder, quality_report=False, quantization=Quantization.INT8).quality is None
    assert "so its record of the quality is not used" in caplog.text
    assert "reference" in start(folder, quantization=Quantization.INT8).notes[-1]
    assert len(json.loads((folder / FILE_NAME).read_text())["records"]) == 1


def test_another_tokenizer_makes_another_quality(folder: Path) -> None:
    start(folder, quantization=Quantization.INT8)
    assert start(folder, quality_report=False, quantization=Quantization.INT8).quality is not None
    path = folder / "tokenizer.json"
    write_anew(path, path.read_bytes() + b"\n")
    assert start(folder, quality_report=False, quantization=Quantization.INT8).quality is None


def test_other_contents_of_the_same_size_and_time_are_other_weights(folder: Path) -> None:
    start(folder, quantization=Quantization.INT8)
    path = folder / "model.safetensors"
    data, times = path.read_bytes(), path.stat()
    write_anew(path, data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert start(folder, quality_report=False, quantization=Quantization.INT8).quality is None


def test_what_cannot_be_remembered_on_disk_is_hashed_once_a_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start(folder, quantization=Quantization.INT8)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    made: list[str] = []
    hash_of = records._hash_of
    monkeypatch.setattr(records, "_hash_of", lambda *given: made.append(hash_of(*given)) or made[-1])

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(records, "_rewrite", refuse)
    start(copy, quantization=Quantization.INT8)
    assert len(made) == 1
    assert "cannot be written (Read-only file system), nor can" in caplog.text


def test_nothing_is_measured_unless_asked_for(folder: Path) -> None:
    config = EngineConfig(model=str(folder), kv_cache_memory_bytes=2**22)
    _, info = build_engine(config, lambda *_: None)
    assert info.quality is None
    assert not (folder / FILE_NAME).exists()


def test_divergence_and_agreement_are_those_of_the_whole_distributions(folder: Path) -> None:
    """With all tokens stored; and with the best few, the divergence is a little less, never more."""
    model = loaded(folder)
    tokens = tuple(range(5, 45))
    random = torch.Generator().manual_seed(1)
    expected = torch.randn(39, 266, generator=random).log_softmax(-1)
    rows = model.decoder.logits(hidden_rows(model, tokens)).log_softmax(-1)
    whole = float((expected.exp() * (expected - rows)).sum(-1).mean())
    for num_top in (266, 100):
        best = expected.topk(num_top, dim=-1)
        target = expected.gather(1, torch.tensor(tokens[1:])[:, None]).squeeze(1)
        reference = ReferenceModel("r", (tokens,), Predictions(best.indices.int(), best.values, target))
        quality = measure.compare_predictions(model, reference, lambda *_: None)
        if num_top == 266:
            assert quality.kl_divergence == pytest.approx(whole, rel=1e-4)
        else:
            assert 0.5 * whole < quality.kl_divergence < whole
        assert quality.top1_agreement == pytest.approx(float((expected.argmax(-1) == rows.argmax(-1)).float().mean()))
        assert quality.reference_perplexity == pytest.approx(float(target.mean().neg().exp()))
        wanted = rows.gather(1, torch.tensor(tokens[1:])[:, None]).mean().neg().exp()
        assert quality.perplexity == pytest.approx(float(wanted), rel=1e-3)


def loaded(folder: Path) -> LoadedModel:
    files = resolve_model(str(folder), None, lambda *_: None)
    return load_model(files, LoadOptions(dtype="float32"), lambda *_: None)


@torch.inference_mode()
def hidden_rows(model: LoadedModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """Of all tokens but the last."""
    kv = model.cache_layout.allocate_unshared(-(-len(tokens) // BLOCK_SIZE), BLOCK_SIZE, model.device)
    return torch.cat(
        [model.decoder(batch, kv) for batch in step_batches(tokens[:-1], model.cache_layout.groups, model.device)]
    )


def greedy_tokens(model: LoadedModel) -> tuple[int, ...]:
    tokens = (5,)
    while len(tokens) < 48:
        tokens += (int(model.decoder.logits(hidden_rows(model, (*tokens, 0))[-1:]).argmax()),)
    return tokens


def test_chunks_begin_with_bos_where_prompts_do() -> None:
    assets = TokenizerAssets(byte_level_json().encode(), None, {}, 0, [1], add_bos_token=True)
    found = split_into_chunks("abcdefghij", assets, max_position=5)
    assert [len(chunk) for chunk in found] == [5, 5, 3]
    assert all(chunk[0] == 0 for chunk in found)
    plain = split_into_chunks("abcdefghij", TokenizerAssets(byte_level_json().encode(), None, {}, 0, [1], False), 9)
    assert [len(chunk) for chunk in plain] == [9]  # what is left is one token, which predicts nothing
    assert len(chunk_targets(plain)) == 8


def test_steps_are_both_large_and_small() -> None:
    lengths = step_lengths(511)
    assert sum(lengths) == 511
    assert lengths[0] > 32
    assert set(lengths[1:]) == {4}
    assert step_lengths(1) == [1]


def test_own_text_has_thousands_of_words() -> None:
    assert len(builtin_text().split()) > 1500


def test_kernels_that_the_key_needs_are_compiled_with_progress(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_kernels() -> None:
        cpu_build._run_all([["true"], ["true"]], tmp_path)

    monkeypatch.setattr(cpu_operations, "kernel_library", compile_kernels)
    heard: list[tuple[str, int, int, str]] = []
    files = resolve_model(str(folder), None, lambda *_stage: None)
    report.QualityReport(EngineConfig(), files, torch.device("cpu"), lambda *stage: heard.append(stage))
    assert heard == [("compile kernels", done, 2, "files") for done in range(3)]
