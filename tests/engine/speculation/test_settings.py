"""The options of speculation: flags and vLLM's JSON as one, and what is refused."""

import pytest

from engine.config import EngineConfig, Quantization, SpeculativeMethod
from engine.errors import OptionError
from engine.speculation.proposers import DraftSource
from engine.speculation.settings import AUTO_TOKENS, speculation_settings

pytestmark = pytest.mark.fast


def test_no_option_is_no_method() -> None:
    settings = speculation_settings(EngineConfig())
    assert (settings.method, settings.max_tokens) == (SpeculativeMethod.NONE, AUTO_TOKENS)


def test_vllms_json_takes_precedence_over_flags() -> None:
    text = '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3, "prompt_lookup_min": 1}'
    settings = speculation_settings(EngineConfig(speculative_config=text, num_speculative_tokens="9"))
    assert settings.method is SpeculativeMethod.NGRAM
    assert (settings.max_tokens, settings.lookup_min, settings.lookup_max) == (5, 1, 3)


def test_naming_a_draft_model_is_enough() -> None:
    settings = speculation_settings(EngineConfig(speculative_config='{"model": "some/model", "quantization": "none"}'))
    assert settings.method is SpeculativeMethod.DRAFT_MODEL
    assert (settings.draft_model, settings.draft_quantization) == ("some/model", Quantization.NONE)
    assert speculation_settings(EngineConfig(draft_model="x")).method is SpeculativeMethod.DRAFT_MODEL


def test_sources_are_those_that_were_requested() -> None:
    assert speculation_settings(EngineConfig()).sources == {DraftSource.PREDICTION}
    assert speculation_settings(EngineConfig(draft_model="x")).sources == {
        DraftSource.PREDICTION,
        DraftSource.DRAFT_MODEL,
    }
    both = EngineConfig(draft_model="x", speculative_method=SpeculativeMethod.NGRAM)
    assert speculation_settings(both).sources == set(DraftSource)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speculative_config": "{"}, "not JSON"),
        ({"speculative_config": "[]"}, "a JSON object"),
        ({"speculative_config": '{"modle": "x"}'}, "'modle'; known are method"),
        ({"speculative_config": '{"method": "eagle"}'}, "'eagle'; it must be one of none, ngram"),
        ({"speculative_config": '{"prompt_lookup_min": 5}'}, "above prompt_lookup_max"),
        ({"speculative_config": '{"prompt_lookup_max": true}'}, "from 1 to"),
        ({"speculative_config": '{"model": "x", "quantization": "int3"}'}, "'int3'"),
        ({"num_speculative_tokens": "0"}, "auto or a number from 1"),
        ({"num_speculative_tokens": "many"}, "auto or a number from 1"),
        ({"speculative_method": SpeculativeMethod.DRAFT_MODEL}, "no --draft-model"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        speculation_settings(EngineConfig(**options))  # type: ignore[arg-type]
