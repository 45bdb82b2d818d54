"""--ttft-slo: refuses a request on arrival if its predicted time to first token is above the limit."""

import math
import time

from engine.client.queue.first_token import FirstToken
from engine.errors import WaitTooLong
from server.generation.terms import RequestTerms
from server.served.model import ServedModel

_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 120.0


def check_first_token(model: ServedModel, terms: RequestTerms, num_prompt_tokens: int) -> FirstToken | None:
    """Return the predicted time to the first token, counted from the request's arrival; None without --ttft-slo.

    num_prompt_tokens: 1 while the number is unknown. Raises WaitTooLong if the prediction is above the limit, unless
    the request is a line of a batch or has the service tier flex.
    """
    slo_s = model.config.ttft_slo
    if slo_s is None:
        return None
    gone_s = time.monotonic() - terms.arrival_s
    from_now = model.client.predict_first_token(num_prompt_tokens, terms.service_class)
    predicted = FirstToken(gone_s + from_now.expected_s, gone_s + from_now.likely_s, from_now.own_s)
    if predicted.likely_s <= slo_s or terms.yields_to_all:
        return predicted
    raise _too_long(predicted, slo_s)


def _too_long(predicted: FirstToken, slo_s: float) -> WaitTooLong:
    message = (
        f"the first token is expected after {predicted.expected_s:.1f} s, and may take {predicted.likely_s:.1f} s; "
        f"the limit is {slo_s:g} s (--ttft-slo); "
    )
    retry_after_s = min(_MAX_RETRY_S, max(_MIN_RETRY_S, predicted.likely_s - slo_s))
    if predicted.own_s > slo_s:
        message += f"its prompt alone takes {predicted.own_s:.1f} s: shorten it, or send it with service_tier flex"
    else:
        message += f"try again in {math.ceil(retry_after_s)} s, or send it with service_tier flex if it can wait"
    return WaitTooLong(
        message,
        retry_after_s=retry_after_s,
        expected_s=predicted.expected_s,
        is_for_good=predicted.own_s > slo_s,
    )
