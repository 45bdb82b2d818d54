"""Setting, SettingList: the server's options with the values in force, as the dashboard shows them."""

import msgspec


class Setting(msgspec.Struct, frozen=True):
    """An option and its value as text; secrets are hidden. group: heading of the option in `headrace serve --help`."""

    flag: str
    value: str
    is_default: bool
    group: str
    help: str


class SettingList(msgspec.Struct, frozen=True):
    """All options, in the order of the help; empty unless a command started the server."""

    settings: list[Setting]
