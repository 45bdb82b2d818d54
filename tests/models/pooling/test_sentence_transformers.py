"""read_scheme: modules, poolings, projections and prompts as sentence-transformers writes them."""

from pathlib import Path

import pytest
import torch

from models.architecture.pooling import TokenPooling
from models.errors import CheckpointError, UnsupportedModelError
from models.pooling.sentence_transformers import read_scheme
from tests.helpers.pooling_folders import write_dense, write_json, write_modules, write_pooling

MEAN = {"pooling_mode_mean_tokens": True}


def test_a_usual_folder(tmp_path: Path) -> None:
    write_modules(tmp_path)
    write_pooling(tmp_path, pooling_mode_cls_token=False, **MEAN)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    write_json(
        tmp_path / "config_sentence_transformers.json",
        {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"},
    )
    scheme = read_scheme(tmp_path)
    assert scheme.poolings == (TokenPooling.MEAN,)
    assert (scheme.normalizes, scheme.max_tokens, scheme.projections) == (True, 256, ())
    assert (scheme.prompts, scheme.default_prompt) == ({"query": "query: ", "document": ""}, "query")
    assert (scheme.describe(), scheme.dimensions(64), scheme.single_token) == ("mean", 64, None)


@pytest.mark.parametrize(
    ("modes", "poolings"),
    [
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, [TokenPooling.LAST]),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, [TokenPooling.CLS, TokenPooling.MAX]),
        ({"pooling_mode": "weightedmean"}, [TokenPooling.WEIGHTED_MEAN]),
        ({"pooling_mode": ["mean", "cls"]}, [TokenPooling.MEAN, TokenPooling.CLS]),
    ],
)
def test_poolings_side_by_side(tmp_path: Path, modes: dict[str, object], poolings: list[TokenPooling]) -> None:
    write_modules(tmp_path, ["Transformer", "Pooling"])
    write_pooling(tmp_path, **modes)
    scheme = read_scheme(tmp_path)
    assert list(scheme.poolings) == poolings
    assert not scheme.normalizes
    assert scheme.pool(torch.ones(3, 8), [2, 1]).shape == (2, 8 * len(poolings))


def test_projections_come_after_the_pooling(tmp_path: Path) -> None:
    write_modules(tmp_path, ["Transformer", "Pooling", "Dense", "Dense", "Normalize"])
    write_pooling(tmp_path, **MEAN)
    generator = torch.Generator().manual_seed(0)
    first, second, bias = (torch.randn(*shape, generator=generator) for shape in ((6, 8), (4, 6), (4,)))
    write_dense(tmp_path, first, None, "Tanh", index=2)
    write_dense(tmp_path, second, bias, "Identity", index=3)
    scheme = read_scheme(tmp_path)
    states = torch.randn(5, 8, generator=generator)
    means = torch.stack([states[:3].mean(0), states[3:].mean(0)])
    torch.testing.assert_close(scheme.pool(states, [3, 2]), torch.tanh(means @ first.T) @ second.T + bias)
    assert (scheme.dimensions(8), scheme.describe()) == (4, "mean, dense to 6, dense to 4")


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (["Transformer", "Pooling", "LSTM"], "module 'LSTM' is not supported; supported are Transformer, Pooling"),
        (["Transformer", "Normalize", "Pooling"], "in the order Transformer, Normalize, Pooling are not supported"),
        (["Pooling"], "are not supported"),
    ],
)
def test_other_modules_are_refused_by_name(tmp_path: Path, kinds: list[str], reason: str) -> None:
    write_modules(tmp_path, kinds)
    write_pooling(tmp_path, **MEAN)
    with pytest.raises(UnsupportedModelError, match=reason):
        read_scheme(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "reason"),
    [
        ({}, "chooses no pooling"),
        ({"pooling_mode": "entropy"}, "pooling_mode is 'entropy'; supported are cls, max"),
        ({**MEAN, "include_prompt": False}, "include_prompt is false"),
    ],
)
def test_other_poolings_are_refused(tmp_path: Path, pooling: dict[str, object], reason: str) -> None:
    write_modules(tmp_path)
    write_pooling(tmp_path, **pooling)
    with pytest.raises((UnsupportedModelError, CheckpointError), match=reason):
        read_scheme(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"idx": 0}]')
    with pytest.raises(CheckpointError, match=r"modules.json is not a list of modules"):
        read_scheme(tmp_path)
    write_json(tmp_path / "modules.json", [{"idx": 0, "path": "../..", "type": "x.Transformer"}])
    with pytest.raises(CheckpointError, match="lies outside"):
        read_scheme(tmp_path)


def test_a_dense_module_of_another_shape_is_damaged(tmp_path: Path) -> None:
    write_modules(tmp_path, ["Transformer", "Pooling", "Dense"])
    write_pooling(tmp_path, **MEAN)
    write_dense(tmp_path, torch.zeros(4, 8), torch.zeros(3), "Tanh")
    with pytest.raises(CheckpointError, match=r"linear.bias does not fit"):
        read_scheme(tmp_path)


def test_a_default_prompt_must_be_one_of_the_prompts(tmp_path: Path) -> None:
    write_modules(tmp_path)
    write_pooling(tmp_path, **MEAN)
    write_json(tmp_path / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "query"})
    with pytest.raises(CheckpointError, match="default_prompt_name is 'query'"):
        read_scheme(tmp_path)
