"""Scores of pairs of texts: by a cross-encoder, which reads both texts together, or by the angle between embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from engine.errors import InvalidRequest
from engine.protocol import PoolingInfo, PoolingOutput, PoolingTask
from server.generation.terms import RequestTerms
from server.pooling.checks import checked_params, pooling_info
from server.pooling.encoded_inputs import EncodedInputs
from server.pooling.encoding import encoded_pairs, encoded_texts, paths_of, requested_cut
from server.pooling.numbers import cosine, floats_of
from server.schemas.pooling import PoolingFields
from server.served.model import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PairNames:
    """Names of the two sides of pairs in the request, and the limit for the second."""

    first: str
    second: str
    max_second_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """The encoded texts of pairs.

    pair_indices: where each pair's embeddings are among the inputs. None for a cross-encoder, whose inputs are the
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
    """Encode what the model must compute for the pairs' scores. task: SCORE or EMBED. Raises AnswerTimeout, and
    InvalidRequest, which names the text at fault."""
    async with terms.in_time():
        info = pooling_info(model)
        if task is PoolingTask.SCORE:
            params = checked_params(model, task, normalize=use_activation)
            items = await encoded_pairs(
                pairs,
                await model.text_model(),
                info,
                requested_cut(body, info),
                name=names.second,
                first_name=names.first,
                max_second_tokens=names.max_second_tokens,
            )
            paths = paths_of(names.second, len(pairs))
            return EncodedPairs(EncodedInputs(items=items, paths=paths, params=params, terms=terms), None)
        if use_activation is not None:
            raise InvalidRequest(
                "use_activation is about a cross-encoder's scores, and this model compares embeddings; leave it out",
                param="use_activation",
            )
        return await _separately_encoded(pairs, body, model, terms, names, info)


async def _separately_encoded(
    pairs: Sequence[tuple[str, str]],
    body: PoolingFields,
    model: ServedModel,
    terms: RequestTerms,
    names: PairNames,
    info: PoolingInfo,
) -> EncodedPairs:
    """Encode each first text once, however many pairs it is in, and each second text."""
    params = checked_params(model, PoolingTask.EMBED)
    text_model, cut = await model.text_model(), requested_cut(body, info)
    firsts = list(dict.fromkeys(first for first, _ in pairs))
    place_of = {text: number for number, text in enumerate(firsts)}
    items = await encoded_texts(firsts, text_model, info, cut, name=names.first)
    seconds = [second for _, second in pairs]
    limit = names.max_second_tokens
    items += await encoded_texts(seconds, text_model, info, cut, name=names.second, max_text_tokens=limit)
    paths = paths_of(names.first, len(firsts)) + paths_of(names.second, len(pairs))
    pair_indices = [(place_of[first], len(firsts) + number) for number, (first, _) in enumerate(pairs)]
    return EncodedPairs(EncodedInputs(items=items, paths=paths, params=params, terms=terms), pair_indices)


async def scores_of(
    outputs: Sequence[PoolingOutput], pair_indices: list[tuple[int, int]] | None, model: ServedModel
) -> list[float]:
    """Return the score of each pair, in order. pair_indices: as in EncodedPairs."""
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
