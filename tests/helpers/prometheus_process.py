"""A real Prometheus with the configuration and rules of deploy/, only faster: it scrapes each second."""

import re
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.helpers.deadline import wait_until
from tests.helpers.deploy_files import DEPLOY

_TIMES_AS_FAST = 30
_SPAN = re.compile(r"(?<=\[)(\d+)m(?=\])|(?<=for: )(\d+)m")

Labels = dict[str, str]


class PrometheusProcess:
    """`prometheus` on a free port, which scrapes one server. Leaving the context ends it."""

    def __init__(self, program: str, folder: Path, target: str, key: str) -> None:
        """folder: an empty one for its configuration, data and log. target: host:port of the server."""
        self._folder = folder
        self._write_configuration(target, key)
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._client = httpx.Client(trust_env=False, timeout=10)

    def _write_configuration(self, target: str, key: str) -> None:
        source = DEPLOY / "prometheus"
        config = yaml.safe_load((source / "compose.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        job["authorization"]["credentials_file"] = str(self._folder / "key")
        (self._folder / "key").write_text(key)
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        for name in config["rule_files"]:
            rules = _SPAN.sub(_faster, (source / name).read_text())
            (self._folder / name).write_text(rules)

    def __enter__(self) -> Self:
        wait_until(lambda: self._port() is not None, f"Prometheus listens; its log: {self.log}")
        self._client.base_url = httpx.URL(f"http://127.0.0.1:{self._port()}")
        wait_until(self._is_ready, f"Prometheus is ready; its log: {self.log}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(30)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def _port(self) -> int | None:
        assert self._process.poll() is None, self.log
        match = re.search(r'"?Listening on"? address=127.0.0.1:(\d+)', self.log)
        return int(match[1]) if match is not None else None

    def _is_ready(self) -> bool:
        return self._client.get("/-/ready").status_code == 200

    def _get(self, path: str, **parameters: object) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def samples(self, query: str) -> list[tuple[Labels, float]]:
        """What the query gives now."""
        return [(each["metric"], float(each["value"][1])) for each in self._get("query", query=query)["result"]]

    def value(self, query: str) -> float:
        """Of a query that gives one sample."""
        ((_, value),) = self.samples(query)
        return value

    def values_since(self, query: str, began_s: float) -> list[float]:
        """All values of all series from `began_s` (time.time()) on, each second."""
        data = self._get("query_range", query=query, start=began_s, end=time.time(), step=1)
        return [float(value) for each in data["result"] for _, value in each["values"]]

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def health(self) -> dict[str, str]:
        """Of each rule, by its name."""
        return {rule["name"]: rule["health"] for group in self._get("rules")["groups"] for rule in group["rules"]}

    def last_error(self) -> str:
        """Of its last scrape; empty if there was none."""
        return " ".join(target["lastError"] for target in self._get("targets")["activeTargets"])

    def wait_scraped(self) -> None:
        """Until a scrape that began after this call is over."""
        called_s = time.time()

        def is_scraped() -> bool:
            return any(value > called_s for _, value in self.samples("timestamp(headrace_build_info)"))

        wait_until(is_scraped, f"it scrapes; {self.last_error()}")


def _faster(span: re.Match[str]) -> str:
    return f"{60 * int(span[1] or span[2]) // _TIMES_AS_FAST}s"
