"""FormatBase: what formats say of themselves, with what is so for most."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FormatBase:
    """The attributes of a ToolFormat that most formats leave at their defaults."""

    name: str
    takes_object_arguments: bool = field(default=True, kw_only=True)
    call_id_length: int | None = field(default=None, kw_only=True)
    renders_calls: bool = field(default=True, kw_only=True)
    takes_several_calls: bool = field(default=True, kw_only=True)
