"""ModelsJob: what `headrace models` is asked for. Imported by the command line: no torch here."""

import msgspec


class ModelsJob(msgspec.Struct, frozen=True):
    """remove: names of entries to remove; None lists all. asks: for a confirmation. is_forced: whoever uses them."""

    as_json: bool = False
    remove: tuple[str, ...] | None = None
    asks: bool = True
    is_rehearsal: bool = False
    is_forced: bool = False
