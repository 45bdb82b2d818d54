"""ExampleMaker: tokenizes lines of training files into examples for the trainer."""

from dataclasses import dataclass, field

from engine.command_io.finetuning.items import GradedPrompt, Passage, TrainingItem
from server.finetuning.lines import Completion, Document, Line, Preference, TrainingChat
from server.finetuning.prompt_lines import PromptLine, PromptRules
from server.finetuning.rendering import Renderer

Example = TrainingItem | GradedPrompt


def chats_of(content: Line) -> list[TrainingChat]:
    """Return the chat in a line, for sampling the model's answer during training; empty for other kinds of lines."""
    match content:
        case TrainingChat():
            return [content]
        case Preference():
            return [content.preferred]
        case PromptLine():
            return [TrainingChat(content.fields, tuple(False for _ in content.fields.messages))]
    return []


@dataclass(slots=True)
class ExampleMaker:
    renderer: Renderer
    prompts: PromptRules | None
    _known_ids: dict[int, int] = field(default_factory=dict)  # one object for each token, and not for each position

    def examples(self, content: Line, number: int) -> list[Example]:
        """Return the examples in one line. number: the line's number. Raises InvalidLine."""
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

    def _passages(self, content: TrainingChat | Completion | Document | Preference) -> list[list[Passage]]:
        renderer = self.renderer
        match content:
            case TrainingChat():
                return [[passage] for passage in renderer.chat(content)]
            case Completion():
                return [[passage] for passage in renderer.completion(content)]
            case Document():
                return [[passage] for passage in renderer.document(content)]
            case Preference():
                preferred, other = renderer.chat(content.preferred), renderer.chat(content.other)
                return [[preferred[0], other[0]]]
