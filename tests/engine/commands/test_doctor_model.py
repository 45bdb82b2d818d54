"""Doctor's look at a model: what serving it would refuse, and how it would be computed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.command_io.findings import Finding, ModelToCheck, Severity, problem
from engine.commands.doctor import computation
from engine.commands.doctor.model import find_model_problems
from engine.config import EngineConfig, ModelImpl, Task
from engine.errors import OptionError
from engine.startup.build import build_served_engine
from models.errors import MisfitError
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import find_local
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.models.families.gemma4_variants import GEMMA4_VARIANTS
from tests.models.families.state_space_variants import nemotron_h


def _findings(folder: Path, **options: Any) -> list[Finding]:
    """The findings about a model, after the one about the machine's memory."""
    return find_model_problems([ModelToCheck("", EngineConfig(str(folder), **options))]).findings[1:]


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _refusal(folder: Path) -> str:
    """What loading says of the folder."""
    files = find_local(str(folder))
    assert files is not None
    with pytest.raises(MisfitError) as caught:
        load_model(files, LoadOptions(), lambda *_: None)
    return str(caught.value)


def test_weights_of_another_shape_are_a_problem(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    _change_config(folder, vocab_size=100)

    (found,) = _findings(folder)

    assert found == problem("model", _refusal(folder))
    assert "'model.embed_tokens.weight' has shape [266, 64]; by the configuration it must be [100, 64]" in found.message


def test_weights_of_a_layer_that_the_configuration_lacks_are_a_problem(tmp_path: Path) -> None:
    config = nemotron_h(vocab_size=VOCAB_SIZE)
    folder = write_model_folder(tmp_path, config)
    kinds = json.loads((folder / "config.json").read_text())["layers_block_type"]
    _change_config(folder, layers_block_type=kinds[:1] + kinds[2:])

    found, rest = _findings(folder)

    assert found == problem("model", _refusal(folder))
    assert "'backbone.layers.1.mixer." in found.message or "'model.layers.1." in found.message
    assert rest.subject == "weights"


def test_of_many_problems_doctor_lists_the_kinds(tmp_path: Path) -> None:
    """The refusal lists eight, and ends in the name of the command that says the rest."""
    config = next(iter(GEMMA4_VARIANTS.values()))()
    folder = write_model_folder(tmp_path / "gemma", config)
    other = write_model_folder(tmp_path / "llama")
    shutil.copy(other / "config.json", folder / "config.json")

    first, rest = _findings(folder)

    assert "more; check that configuration and weights come from one complete checkpoint" in first.message
    assert (rest.subject, rest.severity) == ("weights", Severity.PROBLEM)
    assert rest.message.startswith("besides, by kind: '")
    assert ".layers.*." in rest.message
    assert " times)" in rest.message


def test_problems_of_a_kind_are_one() -> None:
    names = [f"'layers.{layer}.experts.{e}.w' is not used" for layer in range(3) for e in range(4)]
    assert computation.describe_problems([*names, "'a.weight' repeats another tensor"]) == (
        "'layers.*.experts.*.w' is not used (12 times); 'a.weight' repeats another tensor"
    )


@pytest.mark.parametrize("task", [Task.GENERATE, Task.EMBED])
def test_a_context_longer_than_the_models_is_refused_before_weights_are_read(
    task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_model_folder(tmp_path)
    monkeypatch.delattr("models.loading.load.build_decoder")
    message = "--max-model-len is 999,999; the model takes at most 256 tokens; lower it, or leave it out"

    assert _findings(folder, max_model_len=999_999, task=task) == [problem("model", message)]
    with pytest.raises(OptionError, match=message):
        build_served_engine(EngineConfig(str(folder), max_model_len=999_999, task=task), lambda *_: None)


def test_several_models_may_share_a_context_that_is_too_long_for_some(tmp_path: Path) -> None:
    model = EngineConfig(str(write_model_folder(tmp_path)), max_model_len=999_999, task=Task.EMBED)
    found = find_model_problems([ModelToCheck("a", model), ModelToCheck("b", model)]).findings
    assert [each.severity for each in found] == [Severity.OK] * 3


def test_an_override_that_nothing_reads_is_a_problem(tmp_path: Path) -> None:
    (found,) = _findings(write_model_folder(tmp_path), hf_overrides='{"hiden_size": 64}')
    assert found.severity is Severity.PROBLEM
    assert "hiden_size" in found.message


@pytest.mark.parametrize(
    ("head_dim", "options", "text"),
    [
        (16, {}, "; LlamaForCausalLM, a family of headrace's own; Attention: "),
        (40, {}, "Attention: reference (not cpu: takes head sizes that are a multiple of 16 up to 576, not 40)"),
        (16, {"model_impl": ModelImpl.TRANSFORMERS}, "transformers' LlamaForCausalLM, slower than a family"),
    ],
)
def test_a_sound_models_line_says_how_it_is_computed(
    head_dim: int, options: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(computation, "_has_kernels", lambda: True)
    folder = write_model_folder(tmp_path, llama_config(vocab_size=VOCAB_SIZE, head_dim=head_dim))
    (found,) = _findings(folder, **options)
    assert found.severity is Severity.OK
    assert text in found.message


def test_doctor_compiles_no_kernels_to_name_the_attention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(computation.build, "is_compiled", lambda *_: False)
    monkeypatch.setattr(computation.build, "prebuilt_library", lambda _: None)
    monkeypatch.delattr("engine.commands.doctor.computation.select_backend")
    (found,) = _findings(write_model_folder(tmp_path))
    assert found.message.endswith("; LlamaForCausalLM, a family of headrace's own")
