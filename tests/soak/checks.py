"""What must hold after a soak, and the table of what there was."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.server_process import ServerProcess
from tests.soak.growth import course, growth_of
from tests.soak.samples import MIB, Sample, growth_mib_per_minute, of_last_process, settled, take_sample
from tests.soak.tally import Outcome, Tally

_EXPECTED_ERRORS = re.compile(
    r"a step of [\d,]+ tokens failed|fails alone, too, and ends|the engine process ended with signal 9 \(SIGKILL"
)
MAX_DISK_BYTES = 128 * MIB  # of blocks of the KV cache; the documents of the scenarios have more
_BLOCK_SIZE = 16
_MAX_UNREPORTED = 3  # failures of the disk, of an engine that is killed
_PROBES = {"/health", "/ready", "/metrics"}  # asked for by this program itself

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Watch:
    """What was seen of the server beside its answers."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    num_kills: int = 0
    first: Sample | None = None  # of the API process, idle before and after the load
    last: Sample | None = None
    before: dict[tuple[str, Labels], float] = field(default_factory=dict)  # metrics
    after: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def begin(self, server: ServerProcess) -> None:
        self.first, self.before = take_sample(server.process.pid), _metrics(server)

    def end(self, server: ServerProcess) -> None:
        self.last, self.after = take_sample(server.process.pid), _metrics(server)

    def counted(self, name: str, **labels: str) -> int:
        """How much a counter rose, over all its series with these labels."""
        return round(
            sum(
                value - self.before.get(key, 0.0)
                for key, value in self.after.items()
                if key[0] == name and labels.items() <= dict(key[1]).items()
            )
        )


def _metrics(server: ServerProcess) -> dict[tuple[str, Labels], float]:
    with server.client() as client:
        text = client.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def faults_of_run(server: ServerProcess, watch: Watch, tally: Tally) -> list[str]:
    """What is wrong, one line each."""
    wrong = tally.wrong[:50]
    if broken := tally.total(Outcome.BROKEN):
        wrong.append(f"{broken} requests got no end")
    wrong += _wrong_counts(watch, tally)
    wrong += _wrong_blocks(server)
    wrong += _wrong_tiers(server, watch)
    for name, samples in watch.samples.items():
        wrong += growth_of(name, of_last_process(samples)).wrong
    assert watch.first is not None
    assert watch.last is not None
    if watch.last.num_files > watch.first.num_files + 4:  # a database and its log have been opened
        wrong.append(f"the server has {watch.last.num_files} files open, and had {watch.first.num_files}")
    errors = [line for line in server.log.splitlines() if re.search(r"\bERROR\b", line)]
    wrong += [f"log: {line}" for line in errors if not _EXPECTED_ERRORS.search(line)][:20]
    return wrong


def _wrong_counts(watch: Watch, tally: Tally) -> list[str]:
    """Counters that are not what the clients saw."""
    wrong = []
    routes = {route for _, route, _ in tally.answers} | {route for _, route in tally.num_cut}
    for route in sorted(routes - _PROBES):
        seen: Counter[int] = Counter()
        for (_, each, status), count in tally.answers.items():
            seen[status] += count if each == route else 0
        num_cut = sum(count for (_, each), count in tally.num_cut.items() if each == route)
        for status, count in seen.items():
            counted = watch.counted("headrace_http_requests_total", route=route, status=str(status))
            if not count <= counted <= count + num_cut:
                wrong.append(f"{route} answered {status} {counted} times, and clients saw {count}")
        total = watch.counted("headrace_http_requests_total", route=route)
        if total != seen.total() + num_cut:
            wrong.append(f"{route} counted {total} requests, and clients sent {seen.total() + num_cut}")
    if watch.counted("headrace_engine_restarts_total", reason="crash") != watch.num_kills:
        wrong.append(f"{watch.num_kills} kills, and other restarts")
    if watch.counted("headrace_engine_restarts_total", reason="hang"):
        wrong.append("the engine was taken for hung")
    if watch.counted("headrace_generation_tokens_total") < tally.completion_tokens:
        wrong.append("fewer tokens were counted than clients got")
    return wrong


def _wrong_blocks(server: ServerProcess) -> list[str]:
    used = server.metric("headrace_kv_cache_blocks", state="used")
    return [f"{used:g} blocks are in use, and nothing runs"] if used else []


def _wrong_tiers(server: ServerProcess, watch: Watch) -> list[str]:
    """Counters of blocks on disk that do not fit together. A killed engine may not have reported its last ones."""
    queried = watch.counted("headrace_external_prefix_cache_queries_total")
    restored = watch.counted("headrace_external_prefix_cache_hits_total")
    num_hits = watch.counted("headrace_kv_tier_hits_total")
    num_failures = watch.counted("headrace_kv_tier_failures_total")
    num_injected = len(re.findall(r"injected fault: (?:kv_read fail|kv_write full)", server.log))
    wrong = []
    if not 0 < restored <= min(queried, num_hits * _BLOCK_SIZE):
        wrong.append(f"of {queried} tokens {restored} came from the disk, with {num_hits} blocks that were read")
    if not num_injected - _MAX_UNREPORTED * watch.num_kills <= num_failures <= num_injected:
        wrong.append(f"{num_failures} failures of the disk were counted, and {num_injected} were injected")
    if (num_bytes := server.metric("headrace_kv_tier_bytes")) > MAX_DISK_BYTES:
        wrong.append(f"{num_bytes:,.0f} bytes are on disk, more than {MAX_DISK_BYTES:,}")
    return wrong


def unknowns_of_run(watch: Watch) -> list[str]:
    """What it was too short to tell, one line each."""
    growths = [growth_of(name, of_last_process(samples)) for name, samples in watch.samples.items()]
    return [line for growth in growths for line in growth.unknown]


def report(server: ServerProcess, watch: Watch, tally: Tally) -> None:
    """Print the table."""
    scenarios = sorted({scenario for scenario, _ in tally.outcomes})
    print("| what | " + " | ".join(Outcome) + " |")  # noqa: T201
    print("| --- |" + " --- |" * len(Outcome))  # noqa: T201
    for scenario in scenarios:
        print(f"| {scenario} | " + " | ".join(str(tally.outcomes[scenario, each]) for each in Outcome) + " |")  # noqa: T201
    print("| all | " + " | ".join(str(tally.total(each)) for each in Outcome) + " |\n")  # noqa: T201
    for name, samples in watch.samples.items():
        life = of_last_process(samples)
        later = settled(life)
        print(  # noqa: T201
            f"{name}: {samples[0].rss_bytes / MIB:.0f} MiB at first; in its last life of "
            f"{(life[-1].at_s - life[0].at_s) / 60:.1f} minutes {course(life)}, "
            f"{growth_mib_per_minute(later):+.2f} MiB a minute in the later half; "
            f"{min(s.num_files for s in later)}-{max(s.num_files for s in later)} files, "
            f"{min(s.num_threads for s in later)}-{max(s.num_threads for s in later)} threads"
        )
    injected: Counter[str] = Counter(re.findall(r"injected fault: (.*)", server.log))
    print(f"kills of the engine: {watch.num_kills}; injected: {dict(injected)}")  # noqa: T201
    disk = ("hits", "misses", "failures", "dropped_blocks", "read_seconds", "write_seconds")
    names = (
        *("corrupted_requests", "step_memory_shortages", "num_preemptions", "generation_tokens", "prompt_tokens"),
        *("external_prefix_cache_queries", "external_prefix_cache_hits", *(f"kv_tier_{name}" for name in disk)),
    )
    print("; ".join(f"{name}: {watch.counted(f'headrace_{name}_total')}" for name in names))  # noqa: T201
