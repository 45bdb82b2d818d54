"""ModelsJob: the request of `headrace models`. The command line imports this: no torch here."""

import msgspec


class ModelsJob(msgspec.Struct, frozen=True):
    """A request to list or remove cached models. remove: names of the entries to remove; None lists all. asks: whether
    to ask for confirmation. is_forced: whether to remove entries that are in use."""

    as_json: bool = False
    remove: tuple[str, ...] | None = None
    asks: bool = True
    is_rehearsal: bool = False
    is_forced: bool = False
