"""How well pairs of texts match: by a cross-encoder, which reads both together, or by the angle between embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from engine.errors import InvalidRequest
from engine.protocol import PoolingInfo, PoolingOutput, PoolingTask
from server.generation.terms import RequestTerms
from server.pooling.checks import checked_params, chosen_task, pooling_info
from server.pooling.computing import pool
from server.pooling.encoding import cut_of, encoded_pairs, encoded_texts, paths_of
from server.pooling.numbers import cosine, floats_of
from server.pooling.work import PoolingWork
from server.schemas.pooling import PoolingFields
from server.served.model import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PairNames:
    """What the client calls the two sides of pairs, and how it may cut the second."""

    first: str
    second: str
    max_second_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    scores: list[float]  # of each pair, in order
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """Pairs that are encoded. places: of embeddings, where in the work the two texts of each pair are; None of a
    cross-encoder, whose outputs are the scores."""

    work: PoolingWork
    places: list[tuple[int, int]] | None


async def score_work(
    pairs: Sequence[tuple[str, str]],
    body: PoolingFields,
    model: ServedModel,
    terms: RequestTerms,
    names: PairNames,
    *,
    use_activation: bool | None,
) -> ScoreWork:
    """What the model has to compute for the pairs' scores. Raises AnswerTimeout, and InvalidRequest, which names the
    text at fault."""
    async with terms.in_time():
        task = chosen_task(model, (PoolingTask.SCORE, PoolingTask.EMBED))
        info = pooling_info(model)
        if task is PoolingTask.SCORE:
            params = checked_params(model, task, normalize=use_activation)
            inputs = await encoded_pairs(
                pairs,
                await model.text_model(),
                info,
                cut_of(body, info),
                name=names.second,
                first_name=names.first,
                max_second_tokens=names.max_second_tokens,
            )
            work = PoolingWork(inputs=inputs, paths=paths_of(names.second, len(pairs)), params=params, terms=terms)
            return ScoreWork(work, None)
        if use_activation is not None:
            raise InvalidRequest(
                "use_activation is about a cross-encoder's scores, and this model compares embeddings; leave it out",
                param="use_activation",
            )
        return await _embedding_work(pairs, body, model, terms, names, info)


async def _embedding_work(
    pairs: Sequence[tuple[str, str]],
    body: PoolingFields,
    model: ServedModel,
    terms: RequestTerms,
    names: PairNames,
    info: PoolingInfo,
) -> ScoreWork:
    """Each text is embedded once, however many pairs it is in."""
    params = checked_params(model, PoolingTask.EMBED)
    text_model, cut = await model.text_model(), cut_of(body, info)
    firsts = list(dict.fromkeys(first for first, _ in pairs))
    place_of = {text: number for number, text in enumerate(firsts)}
    inputs = await encoded_texts(firsts, text_model, info, cut, name=names.first)
    seconds = [second for _, second in pairs]
    limit = names.max_second_tokens
    inputs += await encoded_texts(seconds, text_model, info, cut, name=names.second, max_text_tokens=limit)
    paths = paths_of(names.first, len(firsts)) + paths_of(names.second, len(pairs))
    places = [(place_of[first], len(firsts) + number) for number, (first, _) in enumerate(pairs)]
    return ScoreWork(PoolingWork(inputs=inputs, paths=paths, params=params, terms=terms), places)


async def scored(model: ServedModel, asked: ScoreWork) -> Scored:
    """The scores. Raises as `pool`."""
    outputs = await pool(model, asked.work)
    if asked.places is None:
        scores = [floats_of(output.values)[0] for output in outputs]
    else:
        compare = partial(_cosines, outputs, asked.places)
        num_values = sum(len(output.values) for output in outputs) // 4
        scores = await model.workers.run_unless_short(compare, size=num_values // 4)
    return Scored(scores, asked.work.num_tokens)


def _cosines(outputs: Sequence[PoolingOutput], places: Sequence[tuple[int, int]]) -> list[float]:
    vectors: dict[int, list[float]] = {}
    scores = []
    for first, second in places:
        if first not in vectors:
            vectors[first] = floats_of(outputs[first].values).tolist()
        scores.append(cosine(vectors[first], floats_of(outputs[second].values).tolist()))
    return scores
