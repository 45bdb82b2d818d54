"""Texts for the progress of a stage: amounts, shares, speeds."""

from rich.cells import cell_len, set_cell_size
from rich.filesize import decimal

from engine.wording import counted


def described(done: int, total: int, unit: str) -> str:
    """Return a text such as '12.3 MB of 100.0 MB' or '3 of 272 tensors'; '' while nothing is known."""
    if total == 0:
        return amount(done, unit) if done else ""
    if done >= total:
        return amount(total, unit)
    return f"{decimal(done) if unit == 'B' else f'{done:,}'} of {amount(total, unit)}"


def share(done: int, total: int, unit: str) -> str:
    """Return a percentage, or the amount if the total is unknown."""
    if total == 0:
        return amount(done, unit) if done else ""
    return f"{min(100, 100 * done // total)}%"


def amount(count: int, unit: str) -> str:
    """Return a count with its unit. unit: in the plural, or "B" for bytes."""
    return decimal(count) if unit == "B" else counted(count, unit.removesuffix("s"))


def cut_middle(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with '…' in place of its middle if it is longer."""
    if cell_len(text) <= width:
        return text
    first = set_cell_size(text, max(0, (width - 1) // 3)).rstrip()
    last = text
    while last and cell_len(first) + 1 + cell_len(last) > width:
        last = last[1:]
    return f"{first}…{last}"


def speed(bytes_per_s: float, left_s: float | None) -> str:
    """Return a text such as '4.1 MB/s, 25 s left'."""
    rate = f"{decimal(int(bytes_per_s))}/s"
    return rate if left_s is None else f"{rate}, {_time(left_s)} left"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
