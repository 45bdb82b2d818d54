"""ALiBi slopes: the factor by which a head's attention scores fall with the distance to a key (Press et al. 2022)."""

import math


def alibi_slopes(num_heads: int, *, max_bias: float = 8.0, scale: float = 1.0) -> tuple[float, ...]:
    """Return [H] slopes, a geometric series from 2^(-max_bias / n) to 2^(-max_bias) for n heads, times `scale`.

    If the number of heads is not a power of two, the heads beyond the next smaller power take every second slope of the
    series for twice that power.
    """
    whole = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-max_bias * (head + 1) / whole) for head in range(whole)]
    between = [2 ** (-max_bias * (head + 1) / (2 * whole)) for head in range(0, 2 * (num_heads - whole), 2)]
    return tuple(slope * scale for slope in (*slopes, *between))
