"""The process behind `headrace quantize`: a folder appears with its quality or not at all, and options are checked."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.command_io.output_folder import OutputFolder
from engine.command_io.quantize_config import QuantizationMethod, QuantizeConfig, Scheme
from engine.commands.quantize import __main__ as process
from engine.commands.quantize import calibration, command
from engine.errors import StartupError
from engine.protocol import Quality
from engine.quality import report
from engine.quality.records import FILE_NAME
from models.errors import ModelError
from models.export import hugging_face
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder

TEXT = "The channel that feeds the wheel is called a headrace. " * 12


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "builtin_text", lambda: TEXT[:200])
    monkeypatch.setattr(command, "calibration_text", lambda _: TEXT)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 160}
    return write_model_folder(tmp_path_factory.mktemp("llama"), llama_config(**sizes))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    mask = os.umask(0o022)
    yield tmp_path / "out"
    os.umask(mask)


def quantize(model: Path, config: QuantizeConfig) -> None:
    assert config.out is not None
    command.quantize(str(model), config, OutputFolder.of(config.out, "token"), lambda *_: None)


def test_a_folder_appears_with_its_quality(llama: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target.mkdir()  # empty
    quantize(llama, QuantizeConfig(scheme=Scheme.INT8, out=str(target)))
    (record,) = json.loads((target / FILE_NAME).read_text())["records"]
    assert record["quality"]["reference"] == f"{llama} unquantized, in bfloat16"
    assert {oct(path.stat().st_mode)[-3:] for path in target.iterdir()} == {"644"}
    shown = capsys.readouterr().out
    assert "a scale a row in 14 matrices" in shown.replace("\n", " ")
    assert "Not quantized: lm_head" in shown
    assert "KL divergence" in shown
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_a_result_beyond_the_bound_leaves_nothing(llama: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Quality(
        kl_divergence=1.0, top1_agreement=0.1, perplexity=20.0, reference_perplexity=10.0, num_tokens=9, reference="x"
    )
    monkeypatch.setattr(command, "compare_predictions", lambda *_: bad)
    for out in (target, target / "folders" / "that" / "are made"):
        config = QuantizeConfig(scheme=Scheme.INT8, out=str(out), max_quality_loss=0.5)
        with pytest.raises(StartupError, match=r"from 10 to 20, by 100\.00%"):
            quantize(llama, config)
        assert list(target.parent.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused(llama: Path, target: Path) -> None:
    target.mkdir()
    (target / "a").touch()
    with pytest.raises(StartupError, match="is not empty"):
        quantize(llama, QuantizeConfig(out=str(target)))
    with pytest.raises(StartupError, match="is a file"):
        quantize(llama, QuantizeConfig(out=str(target / "a")))


@pytest.mark.parametrize("out", ["", ".", "../here"])
def test_the_folder_that_the_command_was_started_in_is_refused(
    out: str, llama: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be another folder afterwards, and the shell would stand in one that is gone."""
    (target.parent / "here").mkdir()
    monkeypatch.chdir(target.parent / "here")
    with pytest.raises(
        StartupError, match=r"--out is the folder that this command was started in.*name a folder in it"
    ):
        quantize(llama, QuantizeConfig(out=out))


NORM, PROJECTION = "model.layers.1.post_attention_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("name", [NORM, PROJECTION, "model.embed_tokens.weight"])
@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT4])  # to the nearest, calibrated
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(
    name: str, scheme: Scheme, value: float, llama: Path, target: Path
) -> None:
    """Rounding hides them: rows with one become zeros."""
    model = shutil.copytree(llama, target.parent / "model")
    tensors = load_file(model / "model.safetensors")
    tensors[name].view(-1)[3] = value
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{name}' has numbers that are not finite.*fetch the checkpoint again"):
        quantize(model, QuantizeConfig(scheme=scheme, out=str(target)))
    assert not target.exists()


def test_a_calibration_text_that_will_not_do_is_refused(
    llama: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "calibration_text", calibration.calibration_text)
    text = target.parent / "short.txt"
    config = QuantizeConfig(out=str(target), calibration=str(text))
    with pytest.raises(StartupError, match=r"cannot read the calibration text '.*short\.txt': No such file"):
        quantize(Path("no/model"), config)
    for content in ("", "A few words."):
        text.write_text(content)
        with pytest.raises(StartupError, match=r"has \d+ tokens; at least 512 are needed"):
            quantize(llama, config)
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"out": None}, "--out is missing"),
        ({"group_size": 48}, "one of 128, 64, 32"),
        ({"scheme": Scheme.FP8, "group_size": 64}, "with --scheme fp8; it is for int4 and int8"),
        ({"scheme": Scheme.W8A8, "group_size": 64}, "with --scheme w8a8; it is for int4 and int8"),
        ({"scheme": Scheme.INT8, "calibration": "x.txt"}, "--calibration is given.*add --method gptq"),
        ({"scheme": Scheme.FP8, "calibration_tokens": 512}, "--calibration-tokens is given.*rtn for fp8"),
        ({"max_quality_loss": 0.1, "quality_report": False}, "needs the quality report"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(StartupError, match=reason):
        QuantizeConfig(**{"out": "x", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", Scheme)
def test_a_scheme_is_calibrated_where_rounding_costs_a_hundredth(scheme: Scheme) -> None:
    config = QuantizeConfig(scheme=scheme, out="x")
    assert config.is_calibrated is (scheme in (Scheme.INT4, Scheme.W8A8, Scheme.FP8_DYNAMIC))
    assert QuantizeConfig(scheme=scheme, out="x", method=QuantizationMethod.GPTQ).is_calibrated
    assert not QuantizeConfig(scheme=scheme, out="x", method=QuantizationMethod.RTN).is_calibrated


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("w8a16", Scheme.INT8), ("W4A16", Scheme.INT4), ("FP8_DYNAMIC", Scheme.FP8_DYNAMIC), ("W8A8", Scheme.W8A8)],
)
def test_schemes_have_llmcompressor_s_names_too(name: str, scheme: Scheme) -> None:
    assert Scheme(name) is scheme


def test_a_checkpoint_that_cannot_be_finished_is_said_so(
    llama: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "config.json")

    monkeypatch.setattr(hugging_face, "write_config", fail)
    with pytest.raises(StartupError, match=r"cannot write the checkpoint \(No space left on device: config\.json\)"):
        quantize(llama, QuantizeConfig(scheme=Scheme.INT8, out=str(target)))
    assert list(target.parent.iterdir()) == []


def test_a_model_none_of_whose_matrices_can_be_quantized_is_refused(target: Path, tmp_path: Path) -> None:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 48, "intermediate_size": 80}
    odd = write_model_folder(tmp_path / "odd", llama_config(**sizes))
    with pytest.raises(ModelError, match=r"--scheme int4 .* \(they have 48, .*\); choose fp8"):
        quantize(odd, QuantizeConfig(out=str(target)))
    assert not target.exists()


def test_memory_that_runs_out_is_said_so(
    llama: Path, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(command, "convert", fail)
    monkeypatch.setattr(process, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(process, "end_with_parent", lambda: None)
    config = QuantizeConfig(scheme=Scheme.INT8, out=str(target))
    job = msgspec.json.encode([str(llama), config, "token"]).decode()
    assert process.main([job]) == 1
    assert "headrace: quantizing needs more memory" in capsys.readouterr().err
    assert list(target.parent.iterdir()) == []
