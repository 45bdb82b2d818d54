"""Preparation: takes lines one after the other through all steps, and keeps those that pass."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from engine.command_io.finetuning.data_preparation import Dedup, PreparationOptions
from server.data.contamination import EvaluationIndex
from server.data.duplicates import NearDuplicates, line_key
from server.data.languages import LanguageDetector
from server.data.lines import DataLine, FaultyData, LineKind, parse_line, without_metadata
from server.data.memory import LINE_BYTES, NEAR_BYTES, LineMemory
from server.data.personal_data import mask_value
from server.data.report import Cluster, ContaminatedLine, DataReport, RemovedByRule, RemovedLine, spread_of
from server.data.rules.quality import failed_rule, select_rules

MAX_FAULTS = 100  # after which the rest is not read
_MAX_EXAMPLES = 3
_MAX_LINES = 100  # line numbers of a rule, contaminated lines, and dropped fields, in the report
_MAX_CLUSTERS = 20


class DataFault(NamedTuple):
    """A fault of a line. place: for messages, such as "a.jsonl, line 3"."""

    place: str
    number: int
    message: str


class FaultyLines(Exception):
    """Lines that are of no kind that jobs take. faults: at most a hundred."""

    def __init__(self, faults: list[DataFault]) -> None:
        super().__init__("; ".join(f"{fault.place}: {fault.message}" for fault in faults[:3]))
        self.faults = faults


class TooManyRemoved(Exception):
    """More lines were removed than `max_removed` allows. The message has the counts by rule."""


@dataclass(slots=True)
class KeptLine:
    """A line that passed all steps. data: its JSON. group: the first line of its duplicates, among those kept."""

    file: int
    number: int
    data: bytes
    num_words: int
    group: int
    kind: LineKind


@dataclass
class Preparation:
    """The steps: personal data, exact duplicates, quality, languages, evaluation files, near duplicates."""

    options: PreparationOptions
    files: Sequence[str]
    seed: int = 0
    drops_fields: bool = False
    budget: LineMemory | None = None  # of the kept lines; None: no limit
    kept: list[KeptLine] = field(default_factory=list)
    faults: list[DataFault] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.options
        self._rules = select_rules(options.quality, "quality")
        self._detector = LanguageDetector() if options.languages else None
        self._evaluation = EvaluationIndex(options.ngram)
        self._near = (
            NearDuplicates(options.dedup_threshold, lru_cache(256)(self._words_at)) if options.needs_near else None
        )
        self._keys: dict[bytes, int] = {}  # of kept lines
        self._judged: Counter[str] = Counter()
        self._masked: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._duplicates: dict[int, list[str]] = {}  # near ones, by the kept line
        self._num_words: list[int] = []
        self._evaluation_files: list[str] = []
        self.report = DataReport(files=list(self.files), seed=self.seed, evaluation_files=self._evaluation_files)
        self._dropped: Counter[str] = Counter()

    def add_evaluation(self, name: str, lines: Iterable[tuple[int, bytes]]) -> None:
        """Add a file that no line may be taken from. Raises FaultyLines."""
        faults = []
        for number, data in lines:
            try:
                line, _ = parse_line(data, number, drops_fields=True, masks_names=self.options.mask_pii)
            except FaultyData as error:
                faults.append(DataFault(f"{name}, line {number}", number, str(error)))
                continue
            if self.options.mask_pii:
                line = DataLine(number, mask_value(line.value, Counter()), line.kind)
            self._evaluation.add(name, line)
            if name not in self._evaluation_files:
                self._evaluation_files.append(name)
        if faults:
            raise FaultyLines(faults[:MAX_FAULTS])

    def add(self, file: int, number: int, data: bytes) -> None:
        """Take a line through all steps. Raises FaultyLines after a hundred faulty lines, and TooManyLines."""
        num_kept, num_bytes = len(self.kept), len(data)
        self._add(file, number, data)
        if self.budget is not None:
            is_kept = len(self.kept) > num_kept
            held = len(self.kept[-1].data) + LINE_BYTES + (self._near is not None) * NEAR_BYTES if is_kept else 0
            self.budget.add(num_bytes, held)

    def _add(self, file: int, number: int, data: bytes) -> None:
        try:
            line, dropped = parse_line(
                data, number, file, drops_fields=self.drops_fields, masks_names=self.options.mask_pii
            )
        except FaultyData as error:
            file_name = f"{self.files[file]}, " if len(self.files) > 1 else ""
            self.faults.append(DataFault(f"{file_name}line {number}", number, str(error)))
            if len(self.faults) >= MAX_FAULTS:
                raise FaultyLines(self.faults) from None
            return
        self._dropped.update(dropped)
        has_changed = bool(dropped)
        if self.options.mask_pii:
            before = self._masked.total()
            line = DataLine(number, mask_value(line.value, self._masked), line.kind, file)
            has_changed |= self._masked.total() > before
        if has_changed:
            data = json.dumps(line.value, ensure_ascii=False).encode()
        self.report.num_lines += 1
        self._num_words.append(len(line.words))
        key = line_key(line.value if line.kind is LineKind.PROMPT else without_metadata(line.value))
        removed = self._exact(key) or self._quality(line) or self._language(line) or self._leak(line)
        self._judged["near_duplicate"] += not removed
        matches = [] if removed or self._near is None else self._near.matches(line.words)
        if matches and self.options.dedup is Dedup.NEAR:
            of, share = matches[0]
            removed = "near_duplicate", f"{share:.0%} of the words of {self.place_of(self.kept[of])}"
            self._duplicates.setdefault(of, []).append(self.place_of(line))
        if removed is not None:
            self._remove(line, *removed)
            return
        index = len(self.kept)
        self.kept.append(KeptLine(file, number, data.strip(), len(line.words), index, line.kind))
        if self._near is not None:
            self._near.add(index, line.words)
        for other in (self._keys.setdefault(key, index), *(of for of, _ in matches)):
            one, two = sorted((self._root(index), self._root(other)))
            self.kept[two].group = one

    def finish(self) -> DataReport:
        """Return the report. Raises FaultyLines, and TooManyRemoved with the counts."""
        if self.faults:
            raise FaultyLines(self.faults)
        report = self.report
        report.options = {name: getattr(self.options, name) for name in PreparationOptions.__struct_fields__}
        report.num_kept = len(self.kept)
        for name, each in report.removed.items():
            each.num_judged = self._judged[name]
        largest = sorted(self._duplicates.items(), key=lambda each: (-len(each[1]), each[0]))
        report.num_clusters = len(largest)
        report.clusters = [
            Cluster(
                line=self.place_of(self.kept[of]),
                num_duplicates=len(lines),
                duplicates=lines[:_MAX_CLUSTERS],
            )
            for of, lines in largest[:_MAX_CLUSTERS]
        ]
        report.masked = dict(sorted(self._masked.items()))
        report.dropped_fields = dict(sorted(self._dropped.most_common(_MAX_LINES)))
        report.languages = None if self._detector is None else dict(self._languages.most_common())
        report.words_before = spread_of(self._num_words)
        report.words_after = spread_of([line.num_words for line in self.kept])
        return report

    def remove_kept(self, removed: Mapping[int, tuple[str, str]], judged: Mapping[str, int]) -> None:
        """Remove kept lines after `finish`, and count them. removed: rule and detail, by the line's index. judged:
        number of judged lines, by rule."""
        roots = self.groups()
        for index, (rule, detail) in sorted(removed.items()):
            kept = self.kept[index]
            self._remove(parse_line(kept.data, kept.number, kept.file)[0], rule, detail)
        for rule in judged.keys() & self.report.removed.keys():
            self.report.removed[rule].num_judged = judged[rule]
        left = [index for index in range(len(self.kept)) if index not in removed]
        first: dict[int, int] = {}  # of those that are left, by the root before
        for place, index in enumerate(left):
            self.kept[index].group = first.setdefault(roots[index], place)
        self.kept = [self.kept[index] for index in left]
        self.report.num_kept = len(self.kept)
        self.report.words_after = spread_of([line.num_words for line in self.kept])

    def check_removed(self) -> None:
        """Raise TooManyRemoved if fewer lines are left than `max_removed` demands, or none."""
        report = self.report
        if report.num_lines and report.num_removed <= self.options.max_removed * report.num_lines and self.kept:
            return
        if not report.num_lines:
            raise TooManyRemoved("the file has no lines; give another one")
        counts = ", ".join(f"{name} {each.num:,}" for name, each in report.removed.items())
        raise TooManyRemoved(
            f"{report.num_removed:,} of {report.num_lines:,} lines were removed ({counts}); at most "
            f"{self.options.max_removed:.0%} may be (max_removed), and one must be left; change the rules, the file or "
            "the bound"
        )

    def groups(self) -> list[int]:
        """Return for each kept line the first kept line of its duplicates."""
        return [self._root(index) for index in range(len(self.kept))]

    def _exact(self, key: bytes) -> tuple[str, str] | None:
        self._judged["duplicate"] += 1
        first = self._keys.get(key)
        if first is None or self.options.dedup is Dedup.NONE:
            return None
        return "duplicate", f"the same as {self.place_of(self.kept[first])}"

    def _quality(self, line: DataLine) -> tuple[str, str] | None:
        if (failed := failed_rule(self._rules, line, self._judged)) is None:
            return None
        rule, measure = failed
        is_flag = rule.group == "chat"
        return rule.name, rule.meaning if is_flag else f"{rule.meaning}: {measure:.3g}; {rule.bounds}"

    def _language(self, line: DataLine) -> tuple[str, str] | None:
        if self._detector is None:
            return None
        self._judged["language"] += 1
        language = self._detector.language(line)
        self._languages[language] += 1
        is_kept = language == "unknown" or language in self.options.languages
        return None if is_kept else ("language", language)

    def _leak(self, line: DataLine) -> tuple[str, str] | None:
        self._judged["contaminated"] += 1
        leak = self._evaluation.leak(line) if self._evaluation_files else None
        if leak is None:
            return None
        if len(self.report.contaminated) < _MAX_LINES:
            place = self.place_of(line)
            self.report.contaminated.append(
                ContaminatedLine(line=place, file=leak.name, file_line=leak.line, ngram=leak.ngram)
            )
        return "contaminated", f"{leak.name}, line {leak.line}: {leak.ngram}"

    def _remove(self, line: DataLine, rule: str, detail: str) -> None:
        found = self.report.removed.setdefault(rule, RemovedByRule())
        found.num += 1
        place = self.place_of(line)
        if len(found.lines) < _MAX_LINES:
            found.lines.append(place)
        if len(found.examples) < _MAX_EXAMPLES:
            found.examples.append(RemovedLine(line=place, text=line.excerpt(), detail=detail))

    def _words_at(self, index: int) -> list[str]:
        kept = self.kept[index]
        return parse_line(kept.data, kept.number)[0].words

    def _root(self, index: int) -> int:
        while self.kept[index].group != index:
            index = self.kept[index].group
        return index

    def place_of(self, line: DataLine | KeptLine) -> str:
        """Return the line's number, after the file's name if there are several."""
        return f"{self.files[line.file]}:{line.number}" if len(self.files) > 1 else str(line.number)
