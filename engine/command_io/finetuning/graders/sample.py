"""Sample: an answer of the trained model, as templates read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine.command_io.finetuning.graders.faults import FaultKind, Ungradable

FIELDS = ("output_text", "output_json", "output_tools", "choices")


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer to grade, with the fields of OpenAI's samples. output_tools: the tool calls; None if unknown."""

    output_text: str
    output_tools: Sequence[dict[str, Any]] | None = None
    finish_reason: str = "stop"
    _json: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)  # once it has been read

    def value(self, name: str) -> Any:
        """Return the value of one of FIELDS. Raises Ungradable, such as for output_json if the answer is not JSON."""
        match name:
            case "output_text":
                return self.output_text
            case "output_json":
                return self._parsed()
            case "output_tools":
                return self._tools()
            case "choices":
                calls = {} if self.output_tools is None else {"tool_calls": list(self.output_tools)}
                message = {"role": "assistant", "content": self.output_text, **calls}
                return [{"index": 0, "message": message, "finish_reason": self.finish_reason}]
        raise AssertionError(name)

    def _parsed(self) -> Any:
        if not self._json:
            try:
                self._json.append(msgspec.json.decode(self.output_text.encode()))
            except (ValueError, RecursionError):  # msgspec's errors, and lone surrogates
                raise Ungradable(FaultKind.SAMPLE_PARSE, "the sample is not JSON") from None
        return self._json[0]

    def _tools(self) -> list[dict[str, Any]]:
        if self.output_tools is None:
            raise Ungradable(FaultKind.INVALID_VARIABLE, "sample.output_tools is not known of this sample")
        return list(self.output_tools)
