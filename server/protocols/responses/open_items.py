"""Output items while they are generated, and the events of each from start to end."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from msgspec import UNSET, UnsetType

from server.protocols.responses.custom_input import CustomInput
from server.protocols.responses.events import ArgumentsDone, Delta, Event, InputDone, ItemEvent, PartEvent, TextDone
from server.protocols.responses.objects import (
    CustomCallItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    new_id,
)
from server.protocols.responses.thoughts import encode_thought
from server.schemas.answers import ChatLogprob


class OpenItem(ABC):
    """The output item that is being generated. Objects that it puts into events are never changed afterwards."""

    def __init__(self, prefix: str, index: int) -> None:
        self._id = new_id(prefix)
        self._index = index
        self._text: list[str] = []

    @abstractmethod
    def item(self, status: str) -> OutputItem: ...

    @abstractmethod
    def begin(self) -> Iterator[Event]: ...

    @abstractmethod
    def end(self, status: str) -> Iterator[Event]:
        """Yield the events of the item's end. status: completed, or incomplete if the item was cut off."""

    def _added(self, item: OutputItem) -> Event:
        return ItemEvent(type="response.output_item.added", output_index=self._index, item=item)

    def _done(self, item: OutputItem) -> Event:
        return ItemEvent(type="response.output_item.done", output_index=self._index, item=item)

    def _part(self, event: str, part: OutputText | ReasoningText) -> Event:
        return PartEvent(type=f"response.content_part.{event}", item_id=self._id, output_index=self._index, part=part)

    def _delta(
        self,
        kind: str,
        text: str,
        content_index: int | UnsetType = UNSET,
        logprobs: list[ChatLogprob] | UnsetType = UNSET,
    ) -> Event:
        self._text.append(text)
        return Delta(
            type=f"response.{kind}.delta",
            item_id=self._id,
            output_index=self._index,
            content_index=content_index,
            delta=text,
            logprobs=logprobs,
        )


class OpenMessage(OpenItem):
    def __init__(self, index: int) -> None:
        super().__init__("msg", index)
        self._logprobs: list[ChatLogprob] = []

    def begin(self) -> Iterator[Event]:
        yield self._added(MessageItem(id=self._id, status="in_progress", content=[]))
        yield self._part("added", OutputText(text=""))

    def add(self, text: str, logprobs: list[ChatLogprob]) -> Iterator[Event]:
        self._logprobs += logprobs
        yield self._delta("output_text", text, 0, logprobs)

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
        yield self._part("done", part)
        yield self._done(item)

    def item(self, status: str) -> MessageItem:
        part = OutputText(text="".join(self._text), logprobs=list(self._logprobs))
        return MessageItem(id=self._id, status=status, content=[part])


class OpenReasoning(OpenItem):
    def __init__(self, index: int, *, is_encoded: bool) -> None:
        """is_encoded: whether the item repeats its thought in encrypted_content."""
        super().__init__("rs", index)
        self._is_encoded = is_encoded

    def begin(self) -> Iterator[Event]:
        yield self._added(ReasoningItem(id=self._id, status="in_progress", content=[]))
        yield self._part("added", ReasoningText(text=""))

    def add(self, text: str) -> Iterator[Event]:
        yield self._delta("reasoning_text", text, 0)

    def end(self, status: str) -> Iterator[Event]:
        item = self.item(status)
        part = item.content[0]
        yield TextDone(type="response.reasoning_text.done", item_id=self._id, output_index=self._index, text=part.text)
        yield self._part("done", part)
        yield self._done(item)

    def item(self, status: str) -> ReasoningItem:
        text = "".join(self._text)
        encoded = encode_thought(text) if self._is_encoded else None
        return ReasoningItem(id=self._id, status=status, content=[ReasoningText(text=text)], encrypted_content=encoded)


class OpenCall(OpenItem):
    """A call of a function tool or a custom tool."""

    def __init__(self, prefix: str, index: int, call_id: str, name: str, namespace: str | None) -> None:
        super().__init__(prefix, index)
        self._call_id = call_id
        self._name = name
        self._namespace: str | UnsetType = UNSET if namespace is None else namespace

    def begin(self) -> Iterator[Event]:
        yield self._added(self.item("in_progress"))

    @abstractmethod
    def add(self, arguments: str) -> Iterator[Event]: ...


class OpenFunctionCall(OpenCall):
    def __init__(self, index: int, call_id: str, name: str, namespace: str | None) -> None:
        super().__init__("fc", index, call_id, name, namespace)

    def add(self, arguments: str) -> Iterator[Event]:
        if arguments:
            yield self._delta("function_call_arguments", arguments)

    def end(self, status: str) -> Iterator[Event]:
        item = self.item(status)
        yield ArgumentsDone(item_id=self._id, output_index=self._index, name=self._name, arguments=item.arguments)
        yield self._done(item)

    def item(self, status: str) -> FunctionCallItem:
        return FunctionCallItem(
            id=self._id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._text),
            namespace=self._namespace,
        )


class OpenCustomCall(OpenCall):
    def __init__(self, index: int, call_id: str, name: str, namespace: str | None) -> None:
        super().__init__("ctc", index, call_id, name, namespace)
        self._reader = CustomInput()

    def add(self, arguments: str) -> Iterator[Event]:
        yield from self._add_input(self._reader.push(arguments))

    def _add_input(self, text: str) -> Iterator[Event]:
        if text:
            yield self._delta("custom_tool_call_input", text)

    def end(self, status: str) -> Iterator[Event]:
        yield from self._add_input(self._reader.finish())
        item = self.item(status)
        yield InputDone(item_id=self._id, output_index=self._index, input=item.input)
        yield self._done(item)

    def item(self, status: str) -> CustomCallItem:
        return CustomCallItem(
            id=self._id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            input="".join(self._text),
            namespace=self._namespace,
        )
