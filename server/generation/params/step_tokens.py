"""step_tokens: turns the sampling fields that are texts, bad words and DRY's sequence breakers, into token ids."""

from functools import partial
from itertools import chain

from server.keys.caller import current_caller
from server.schemas.sampler_steps import SamplerStepFields, StepTokens
from server.text.token_words import TokenWords
from server.text_model import TextModel


async def step_tokens(body: SamplerStepFields, text_model: TextModel, vocab_size: int) -> StepTokens:
    """Return the token ids of bad words and DRY breakers, looked up in a thread. Raises InvalidRequest.

    vocab_size: width of the output layer. Bad words with a token beyond it cannot be generated and are left out.
    """
    if not (body.bad_words or body.breakers):
        return StepTokens()
    salt = "" if body.dry_sequence_breakers is None else current_caller().cache_salt("")  # all share the default
    return await text_model.workers.run(partial(_look_up, body, text_model.words, vocab_size, salt), size=0)


def _look_up(body: SamplerStepFields, words: TokenWords, vocab_size: int, salt: str) -> StepTokens:
    spellings = dict.fromkeys(chain.from_iterable(words.spellings(word) for word in body.bad_words or []))
    bad_words = tuple(ids for ids in spellings if max(ids) < vocab_size)
    return StepTokens(bad_words, *words.breakers(body.breakers, cache_salt=salt))
