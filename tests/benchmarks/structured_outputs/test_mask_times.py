"""benchmarks.structured_outputs.mask_times: every case can be measured."""

import pytest

from benchmarks.structured_outputs.mask_times import CASES, SLICES, grammar_of, look_ms, mask_ms
from tests.helpers.grammars import ledger_vocabulary

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("slices", list(SLICES))
def test_a_mask_is_timed_with_all_slices(slices: str) -> None:
    tokenizer = ledger_vocabulary().tokenizer.with_slices(SLICES[slices])
    assert mask_ms(tokenizer, {"maxLength": 300}, "abc") > 0
    assert look_ms(tokenizer, {"maxLength": 300}, "abc") > 0


@pytest.mark.parametrize("name", list(CASES))
def test_each_case_is_a_grammar(name: str) -> None:
    schema, _ = CASES[name]
    assert not ledger_vocabulary().matcher(grammar_of(schema)).is_error()
