"""Published laws: their optimum is one, and near 20 tokens a parameter."""

import pytest

from server.finetuning.scaling.training_report import PRETRAINING_LAWS, PretrainingLaw

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("law", PRETRAINING_LAWS)
@pytest.mark.parametrize("num_parameters", [135e6, 1.5e9, 70e9])
def test_no_other_size_is_better_for_the_same_compute(law: PretrainingLaw, num_parameters: float) -> None:
    tokens = law.optimal_tokens(num_parameters)
    best = law.loss(num_parameters, tokens)
    assert all(law.loss(num_parameters * factor, tokens / factor) > best for factor in (0.8, 0.95, 1.05, 1.25))


def test_the_refit_agrees_with_about_20_tokens_a_parameter() -> None:
    assert PRETRAINING_LAWS[1].optimal_tokens(70e9) / 70e9 == pytest.approx(20, rel=0.2)
