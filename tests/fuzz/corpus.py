"""The inputs that have been found to be wrong, and what is wrong with one now."""

import time
from pathlib import Path

from tests.fuzz.files import TARGETS

CORPUS = Path(__file__).parents[1] / "corpus"
MAX_S = 5.0  # of the processor, for one input


def fault_of(name: str, data: bytes) -> str | None:
    """What the reader of this name makes of an input, unless it takes it or raises what it documents."""
    target = TARGETS[name]
    began_s = time.process_time()
    try:
        target.read(data)
    except target.errors as error:
        if len(str(error)) > 2000:
            return f"a message of {len(str(error))} characters"
    except Exception as error:  # noqa: BLE001 - which is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    took_s = time.process_time() - began_s
    return f"took {took_s:.1f} s" if took_s > MAX_S else None
