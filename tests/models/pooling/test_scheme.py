"""pool_tokens against each pooling's definition, text by text."""

import pytest
import torch

from models.architecture.pooling import TokenPooling
from models.pooling.scheme import pool_tokens

LENGTHS = [3, 1, 7]
DEFINITIONS = {
    TokenPooling.MEAN: lambda text: text.mean(0),
    TokenPooling.CLS: lambda text: text[0],
    TokenPooling.LAST: lambda text: text[-1],
    TokenPooling.MAX: lambda text: text.max(0).values,
    TokenPooling.MEAN_SQRT_LENGTH: lambda text: text.sum(0) / len(text) ** 0.5,
    TokenPooling.WEIGHTED_MEAN: lambda text: sum(n * row for n, row in enumerate(text, 1)) / sum(range(len(text) + 1)),
}


@pytest.mark.parametrize("pooling", TokenPooling)
def test_each_text_is_pooled_by_itself(pooling: TokenPooling) -> None:
    states = torch.randn(sum(LENGTHS), 5, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([DEFINITIONS[pooling](text) for text in states.split(LENGTHS)])
    torch.testing.assert_close(pool_tokens(states, LENGTHS, pooling), expected)
