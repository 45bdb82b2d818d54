"""ExampleMaker: lines of training files become what a trainer reads."""

from dataclasses import dataclass, field

from engine.command_io.finetuning.items import GradedPrompt, Passage, TrainingItem
from server.finetuning.lines import Chat, Completion, Document, Line, Preference
from server.finetuning.prompt_lines import PromptLine, PromptRules
from server.finetuning.rendering import Renderer

Example = TrainingItem | GradedPrompt


def chats_of(content: Line) -> list[Chat]:
    """What a line has of a chat whose question can be asked."""
    match content:
        case Chat():
            return [content]
        case Preference():
            return [content.preferred]
        case PromptLine():
            return [Chat(content.fields, tuple(False for _ in content.fields.messages))]
    return []


@dataclass(slots=True)
class ExampleMaker:
    """Makes examples of lines."""

    renderer: Renderer
    prompts: PromptRules | None
    _known_ids: dict[int, int] = field(default_factory=dict)  # an object for each token, not for each of its places

    def examples(self, content: Line, number: int) -> list[Example]:
        """Raises FaultyLine."""
        if isinstance(content, PromptLine):
            return [self._prompt(content, number)]
        return [
            TrainingItem([self._compact(each) for each in passages], number) for passages in self._passages(content)
        ]

    def _prompt(self, line: PromptLine, number: int) -> GradedPrompt:
        assert self.prompts is not None, "reinforcement has a grader"
        item = self.prompts.checked_item(line)
        prompt = self._compact(self.renderer.prompt(line.fields, len(line.fields.messages)))
        self.prompts.check_length(len(prompt.ids))
        return GradedPrompt(prompt.ids, item, number)

    def _compact(self, passage: Passage) -> Passage:
        return Passage([self._known_ids.setdefault(token, token) for token in passage.ids], passage.trained)

    def _passages(self, content: Chat | Completion | Document | Preference) -> list[list[Passage]]:
        """The passages of each item."""
        renderer = self.renderer
        match content:
            case Chat():
                return [[passage] for passage in renderer.chat(content)]
            case Completion():
                return [[passage] for passage in renderer.completion(content)]
            case Document():
                return [[passage] for passage in renderer.document(content)]
            case Preference():
                preferred, other = renderer.chat(content.preferred), renderer.chat(content.other)
                return [[preferred[0], other[0]]]
