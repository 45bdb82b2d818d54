"""Scores of text pairs: by a cross-encoder, which reads both texts together, or by cosine similarity of embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from engine.errors import InvalidRequest
from engine.protocol import PoolingOutput, PoolingTask
from server.generation.terms import RequestTerms
from server.pooling.checks import checked_params
from server.pooling.encoding import EncodedInputs, PairNames, RequestEncoder, paths_of
from server.pooling.numbers import cosine, floats_of
from server.schemas.pooling import PoolingFields
from server.served.model import ServedModel


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Tokenized inputs for the scores of text pairs.

    pair_indices: positions of each pair's two texts among the inputs. None for a cross-encoder, whose inputs are the
    pairs and whose outputs are the scores.
    """

    inputs: EncodedInputs
    pair_indices: list[tuple[int, int]] | None


async def encoded_pairs_of(
    pairs: Sequence[tuple[str, str]],
    body: PoolingFields,
    model: ServedModel,
    terms: RequestTerms,
    names: PairNames,
    *,
    task: PoolingTask,
    use_activation: bool | None,
) -> EncodedPairs:
    """Encode the inputs for the pairs' scores: the pairs if task is SCORE, their texts if it is EMBED. Raises
    AnswerTimeout, and InvalidRequest, which names the text at fault."""
    async with terms.in_time():
        encoder = RequestEncoder(body, await model.text_model(), model.client.info)
        if task is PoolingTask.SCORE:
            params = checked_params(model, task, normalize=use_activation)
            items, paths = await encoder.pairs(pairs, names), paths_of(names.second, len(pairs))
            return EncodedPairs(EncodedInputs(items=items, paths=paths, params=params, terms=terms), None)
        if use_activation is not None:
            raise InvalidRequest(
                "use_activation is about a cross-encoder's scores, and this model compares embeddings; leave it out",
                param="use_activation",
            )
        # Each first text is encoded once, however many pairs it is in.
        firsts = list(dict.fromkeys(first for first, _ in pairs))
        items = await encoder.texts(firsts, names.first)
        seconds = [second for _, second in pairs]
        items += await encoder.texts(seconds, names.second, max_text_tokens=names.max_second_tokens)
    paths = paths_of(names.first, len(firsts)) + paths_of(names.second, len(pairs))
    index_of = {text: number for number, text in enumerate(firsts)}
    pair_indices = [(index_of[first], len(firsts) + number) for number, (first, _) in enumerate(pairs)]
    params = checked_params(model, PoolingTask.EMBED)
    return EncodedPairs(EncodedInputs(items=items, paths=paths, params=params, terms=terms), pair_indices)


async def scores_of(
    outputs: Sequence[PoolingOutput], pair_indices: list[tuple[int, int]] | None, model: ServedModel
) -> list[float]:
    """Return the score of each pair, in order. pair_indices: positions of each pair's two embeddings among the outputs;
    None for a cross-encoder, whose outputs are the scores."""
    if pair_indices is None:
        return [floats_of(output.values)[0] for output in outputs]
    num_values = sum(len(output.values) for output in outputs) // 4
    return await model.workers.run_unless_short(partial(_cosines, outputs, pair_indices), size=num_values // 4)


def _cosines(outputs: Sequence[PoolingOutput], pair_indices: Sequence[tuple[int, int]]) -> list[float]:
    vectors: dict[int, list[float]] = {}
    scores = []
    for first, second in pair_indices:
        if first not in vectors:
            vectors[first] = floats_of(outputs[first].values).tolist()
        scores.append(cosine(vectors[first], floats_of(outputs[second].values).tolist()))
    return scores
