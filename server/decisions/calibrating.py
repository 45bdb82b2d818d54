"""Calibration of decisions: which one fits a served model, and the answers that it changes."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

from engine.protocol import LabelMasses
from server.calibration.calibration import Identity, ModelCalibration
from server.decisions.computing import Decided
from server.decisions.decision import Decision, Kind, Question
from server.decisions.wording import VERSION
from server.served.adapter import ServedAdapter
from server.served.model import ServedModel
from server.text_model import TextModel

CALIBRATION_HEADER = "x-decision-calibration"
_WEIGHTS_PART = 2  # of system_fingerprint: hash of weights, their format and the positions' frequencies


async def calibration_of(model: ServedModel, text_model: TextModel) -> ModelCalibration | None:
    """Return the calibration that fits a model that has been loaded, or the version of its adapter that requests are
    submitted with."""
    identity = decision_identity(model, text_model)
    info = model.info
    return await model.calibrations.find(identity, None if info is None else info.calibration_folder)


async def known_calibration(model: ServedModel) -> ModelCalibration | None:
    """Return the calibration that fits, or None for a model that has not been loaded or answers no decisions. Raises
    EngineUnavailable and ModelFailed."""
    if model.info is None or not model.info.generates or model.text_problem is not None:
        return None
    return await calibration_of(model, await model.text_model())


def calibration_fields(calibration: ModelCalibration | None) -> dict[str, Any]:
    """Return the field of a model's card that describes its calibration, if it has one."""
    if calibration is None:
        return {}
    kinds = {
        kind: {
            "num_answers": each.overall.num_answers,
            "names": sorted(each.by_name),
            "calibration_error": each.overall.after.calibration_error,
        }
        for kind, each in calibration.kinds.items()
    }
    fingerprint = calibration.identity.fingerprint
    return {"calibration": {"fingerprint": fingerprint, "created": calibration.created_s, "kinds": kinds}}


def decision_identity(model: ServedModel, text_model: TextModel) -> Identity | None:
    """Return all that decides the probabilities of the model's decisions; None if some of it is not known."""
    return _identity(model, model.used_adapter, text_model)


def _identity(model: ServedModel, adapter: ServedAdapter | None, text_model: TextModel) -> Identity | None:
    parts = (model.system_fingerprint or "").split("/")
    if len(parts) <= _WEIGHTS_PART or (adapter is not None and adapter.info is None):
        return None
    config = model.config
    template = None if text_model.chat is None else text_model.chat.template.source
    return Identity(
        weights=parts[_WEIGHTS_PART],
        adapter="" if adapter is None or adapter.info is None else adapter.info.digest.hex(),
        template=_hash(template, config.reasoning_parser, config.tool_call_parser),
        wording=VERSION,
    )


def _hash(*texts: str | None) -> str:
    return hashlib.blake2b(repr(texts).encode(errors="surrogatepass"), digest_size=16).hexdigest()


async def check_given(model: ServedModel, adapters: Iterable[ServedAdapter]) -> None:
    """Warn if --calibration fits neither a loaded model nor one of its adapters."""
    identities = []
    if model.info is not None and model.info.generates:
        text_model = await model.text_model()
        own = [None, *(adapter for adapter in adapters if adapter.base_name == model.base_name)]
        identities = [each for adapter in own if (each := _identity(model, adapter, text_model)) is not None]
    model.calibrations.check(identities)


def calibrated(decision: Decision, decided: Decided, calibration: ModelCalibration | None) -> Decided:
    """Return the answers with calibrated probabilities, where the calibration has numbers for their kind."""
    if calibration is None:
        return decided
    masses: list[LabelMasses | None] = []
    for question, each in zip(decision.questions, decided.masses, strict=True):
        if each is not None and _has_numbers(calibration, question):
            probabilities = calibration.apply(question.kind, question.name, each.probabilities)
            each = LabelMasses(list(probabilities), each.mass)
        masses.append(each)
    return dataclasses.replace(decided, masses=masses)


def _has_numbers(calibration: ModelCalibration, question: Question) -> bool:
    """Return whether a question is worded like those that the calibration has numbers for. A predicate that may be a
    question is worded differently."""
    return question.kind in calibration.kinds and not (question.kind is Kind.PREDICATE and question.options)


def calibration_header(calibration: ModelCalibration | None, questions: Iterable[Question]) -> dict[str, str]:
    """Return the header that says which kinds of a decision's questions have calibrated answers, and by which
    calibration."""
    known: list[Kind] = []
    if calibration is not None:
        known = sorted({question.kind for question in questions if _has_numbers(calibration, question)})
    value = f"{calibration.identity.fingerprint}; kinds={','.join(known)}" if calibration and known else "none"
    return {CALIBRATION_HEADER: value}
