"""Output items while they are written, and the events of each from start to end."""

from collections.abc import Iterator
from typing import Protocol

from msgspec import UNSET, UnsetType

from server.protocols.responses.custom_input import CustomInput
from server.protocols.responses.events import ArgumentsDone, Delta, Event, InputDone, ItemEvent, PartEvent, TextDone
from server.protocols.responses.ids import new_id
from server.protocols.responses.objects import (
    CustomCallItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from server.protocols.responses.thoughts import encode_thought
from server.schemas.answers import ChatLogprob


class OpenItem(Protocol):
    """An item that the answer is in. Its objects in events are never changed afterwards."""

    def begin(self) -> Iterator[Event]: ...

    def end(self, status: str) -> Iterator[Event]:
        """Yield the events of the item's end. status: completed, or incomplete if the answer broke off in it."""
        ...

    def item(self, status: str) -> OutputItem: ...


class OpenMessage:
    def __init__(self, index: int) -> None:
        self._id = new_id("msg")
        self._index = index
        self._text: list[str] = []
        self._logprobs: list[ChatLogprob] = []

    def begin(self) -> Iterator[Event]:
        item = MessageItem(id=self._id, status="in_progress", content=[])
        yield ItemEvent(type="response.output_item.added", output_index=self._index, item=item)
        yield PartEvent(
            type="response.content_part.added", item_id=self._id, output_index=self._index, part=OutputText(text="")
        )

    def add(self, text: str, logprobs: list[ChatLogprob]) -> Iterator[Event]:
        self._text.append(text)
        self._logprobs += logprobs
        yield Delta(
            type="response.output_text.delta",
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            delta=text,
            logprobs=logprobs,
        )

    def end(self, status: str) -> Iterator[Event]:
        item = self.item(status)
        part = item.content[0]
        yield TextDone(
            type="response.output_text.done",
            item_id=self._id,
            output_index=self._index,
            text=part.text,
            logprobs=part.logprobs,
        )
        yield PartEvent(type="response.content_part.done", item_id=self._id, output_index=self._index, part=part)
        yield ItemEvent(type="response.output_item.done", output_index=self._index, item=item)

    def item(self, status: str) -> MessageItem:
        part = OutputText(text="".join(self._text), logprobs=list(self._logprobs))
        return MessageItem(id=self._id, status=status, content=[part])


class OpenReasoning:
    def __init__(self, index: int, *, is_encoded: bool) -> None:
        """is_encoded: whether the item carries its thought a second time, in encrypted_content."""
        self._id = new_id("rs")
        self._index = index
        self._text: list[str] = []
        self._is_encoded = is_encoded

    def begin(self) -> Iterator[Event]:
        item = ReasoningItem(id=self._id, status="in_progress", content=[])
        yield ItemEvent(type="response.output_item.added", output_index=self._index, item=item)
        yield PartEvent(
            type="response.content_part.added", item_id=self._id, output_index=self._index, part=ReasoningText(text="")
        )

    def add(self, text: str) -> Iterator[Event]:
        self._text.append(text)
        yield Delta(
            type="response.reasoning_text.delta",
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            delta=text,
        )

    def end(self, status: str) -> Iterator[Event]:
        item = self.item(status)
        part = item.content[0]
        yield TextDone(type="response.reasoning_text.done", item_id=self._id, output_index=self._index, text=part.text)
        yield PartEvent(type="response.content_part.done", item_id=self._id, output_index=self._index, part=part)
        yield ItemEvent(type="response.output_item.done", output_index=self._index, item=item)

    def item(self, status: str) -> ReasoningItem:
        text = "".join(self._text)
        encoded = encode_thought(text) if self._is_encoded else None
        return ReasoningItem(id=self._id, status=status, content=[ReasoningText(text=text)], encrypted_content=encoded)


class OpenFunctionCall:
    def __init__(self, index: int, call_id: str, name: str, namespace: str | None) -> None:
        self._id = new_id("fc")
        self._index = index
        self._call_id = call_id
        self._name = name
        self._namespace: str | UnsetType = UNSET if namespace is None else namespace
        self._arguments: list[str] = []

    def begin(self) -> Iterator[Event]:
        yield ItemEvent(type="response.output_item.added", output_index=self._index, item=self.item("in_progress"))

    def add(self, text: str) -> Iterator[Event]:
        if text:
            self._arguments.append(text)
            yield Delta(
                type="response.function_call_arguments.delta", item_id=self._id, output_index=self._index, delta=text
            )

    def end(self, status: str) -> Iterator[Event]:
        item = self.item(status)
        yield ArgumentsDone(item_id=self._id, output_index=self._index, name=self._name, arguments=item.arguments)
        yield ItemEvent(type="response.output_item.done", output_index=self._index, item=item)

    def item(self, status: str) -> FunctionCallItem:
        return FunctionCallItem(
            id=self._id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._arguments),
            namespace=self._namespace,
        )


class OpenCustomCall:
    """A custom tool's call, which the model wrote as a function's call."""

    def __init__(self, index: int, call_id: str, name: str, namespace: str | None) -> None:
        self._id = new_id("ctc")
        self._index = index
        self._call_id = call_id
        self._name = name
        self._namespace: str | UnsetType = UNSET if namespace is None else namespace
        self._reader = CustomInput()
        self._input: list[str] = []

    def begin(self) -> Iterator[Event]:
        yield ItemEvent(type="response.output_item.added", output_index=self._index, item=self.item("in_progress"))

    def add(self, text: str) -> Iterator[Event]:
        yield from self._add(self._reader.push(text))

    def _add(self, text: str) -> Iterator[Event]:
        if text:
            self._input.append(text)
            yield Delta(
                type="response.custom_tool_call_input.delta", item_id=self._id, output_index=self._index, delta=text
            )

    def end(self, status: str) -> Iterator[Event]:
        yield from self._add(self._reader.finish())
        item = self.item(status)
        yield InputDone(item_id=self._id, output_index=self._index, input=item.input)
        yield ItemEvent(type="response.output_item.done", output_index=self._index, item=item)

    def item(self, status: str) -> CustomCallItem:
        return CustomCallItem(
            id=self._id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            input="".join(self._input),
            namespace=self._namespace,
        )
