"""ScoredModel: a tiny model of transformers with its folder, whose log probabilities judge those of a server."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PretrainedConfig

from tests.helpers.adapters import adapted, random_adapter
from tests.helpers.checkpoints import VOCAB_SIZE, random_model, save_model

LONGEST = 5000  # tokens
NUM_TOP = 5
# A completion's parameters: every token that can be chosen, named by its number, with log probabilities.
SCORED = {"temperature": 0.0, "ignore_eos": True, "logprobs": NUM_TOP, "return_tokens_as_token_ids": True}


class ScoredModel:
    """A random model in fp32, saved with a tokenizer of one word a token and a LoRA adapter."""

    def __init__(self, config: PretrainedConfig, folder: Path) -> None:
        if hasattr(config, "max_position_embeddings"):
            config.max_position_embeddings = LONGEST
        self.model = random_model(config)
        self.folder, self.adapter_folder = folder / "model", folder / "adapter"
        save_model(self.model, self.folder)
        words = {f"w{index}": index for index in range(VOCAB_SIZE)}
        tokenizer = Tokenizer(WordLevel(words, "w0"))
        tokenizer.decoder = decoders.Fuse()
        tokenizer.save(str(self.folder / "tokenizer.json"))
        self._adapter = random_adapter(self.model)
        self._adapter.save(self.adapter_folder)

    def log_probabilities(self, tokens: list[int], *, with_adapter: bool = False) -> torch.Tensor:
        """Return the log probabilities after each token, [tokens, V]."""
        if with_adapter:
            with adapted(self.model, self._adapter):
                return self.log_probabilities(tokens)
        with torch.inference_mode():
            return self.model(torch.tensor([tokens])).logits[0].float().log_softmax(dim=-1)

    def check(self, choice: dict[str, Any], prompt: list[int], *, with_adapter: bool = False) -> list[int]:
        """Compare a completion's choice, with `echo` or without, and return its generated tokens."""
        scores = choice["logprobs"]
        tokens = [_number(name) for name in scores["tokens"]]
        has_echo = tokens[: len(prompt)] == prompt and scores["token_logprobs"][0] is None
        answer = tokens[len(prompt) :] if has_echo else tokens
        start = 1 if has_echo else len(prompt)
        truth = self.log_probabilities([*prompt, *answer], with_adapter=with_adapter)[start - 1 : -1]
        own, top = scores["token_logprobs"][has_echo:], scores["top_logprobs"][has_echo:]
        assert len(own) == len(top) == len(truth) > 0
        chosen = torch.tensor([*prompt, *answer])[start:]
        _close(torch.tensor(own), truth.gather(1, chosen[:, None])[:, 0])
        places = [(row, _number(name)) for row, most in enumerate(top) for name in most]
        stated = torch.tensor([value for most in top for value in most.values()])
        _close(stated, truth[tuple(torch.tensor(places).T)])
        likeliest = torch.tensor([sorted(most.values())[-NUM_TOP:] for most in top])
        _close(likeliest, truth.topk(NUM_TOP).values.flip(-1))
        return answer


def _close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-4)


def _number(name: str) -> int:
    return int(name.removeprefix("token_id:"))
