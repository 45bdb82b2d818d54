"""Calibrations for tests, with numbers that were fitted to nothing."""

from server.calibration.calibration import Fit, Fitted, Identity, KindCalibration, Measures, ModelCalibration, Platt

IDENTITY = Identity(weights="w", adapter="", template="t", wording="1")
MEASURES = Measures(accuracy=0.5, brier_score=0.25, log_loss=0.7, calibration_error=0.1)


def fitted(fit: Fit, num_answers: int = 60) -> Fitted:
    return Fitted(fit=fit, num_answers=num_answers, before=MEASURES, after=MEASURES)


def calibration(identity: Identity = IDENTITY, **kinds: Fit) -> ModelCalibration:
    """kinds: fits by kind of question; by default one of predicates."""
    fits = kinds or {"predicate": Platt(2.0, 0.5)}
    overall = {kind: KindCalibration(overall=fitted(fit)) for kind, fit in fits.items()}
    return ModelCalibration(identity=identity, model="tiny", adapter=None, created_s=1_700_000_000, kinds=overall)
