"""The report of a curve: losses by size, the fitted law, and what twice the size would bring."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

from server.finetuning.scaling.power_law import Interval, PowerLaw


def curve_report(law: PowerLaw, points: Sequence[tuple[float, float]], unit: str, per: str = "token") -> str:
    """Return the report as lines. unit: of the sizes, such as "examples". per: whose mean a loss is."""
    losses = defaultdict(list)
    for size, loss in points:
        losses[size].append(loss)
    lines = [f"Held-out loss, in nats per {per}, by {unit}:"]
    for size, values in sorted(losses.items()):
        each = f"   ({' '.join(f'{value:.4f}' for value in values)})" if len(values) > 1 else ""
        lines.append(f"  {size:>10,.0f}  {statistics.fmean(values):.4f}{each}")
    low, high = law.exponent_interval
    upper = "any" if math.isinf(high) else f"{high:.2f}"
    lines.append(
        f"Exponent of the power law: {law.exponent:.2f} (95 %: {low:.2f} to {upper}; 0 is a logarithm). Jobs of one "
        f"size differ by {law.noise:.4f} (standard deviation)"
    )
    lines.append(twice(law, unit, per))
    lines.append(
        "The intervals cover the noise of the losses, and not that the curve may have another shape than a power law "
        "beyond these sizes"
    )
    return "\n".join(lines) + "\n"


def twice(law: PowerLaw, unit: str, per: str) -> str:
    """Return what twice the size would bring, as a sentence or two."""
    name = unit if unit != "examples" else "examples like these"
    change = f"Twice the {name} ({2 * law.size:,.0f}): {law.loss:.4f} -> {law.loss - law.gain:.4f} nats per {per}"
    bounds = f"95 %: {_shown(law.gain_interval)}"
    one_job = f"one such job would have {law.next_loss[0]:.4f} to {law.next_loss[1]:.4f}"
    if law.is_noise:
        return f"{change}, which is in the noise ({bounds}): these jobs do not show whether it would help; {one_job}"
    if law.gain < 0:
        return f"{change}, worse by {-law.gain:.4f} ({bounds}): less is better here; {one_job}"
    return f"{change}, better by {law.gain:.4f} ({bounds}); {one_job}"


def _shown(interval: Interval) -> str:
    return f"a change of {-interval[1]:+.4f} to {-interval[0]:+.4f}"
