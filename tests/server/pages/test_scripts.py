"""The pages' scripts: their own tests run under Node's test runner, where there is one, and nothing in them is dead."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.errors import InvalidRequest
from server.pages.files import NAMES, page_file
from server.schemas.base import validate
from server.schemas.sampling import GenerationRequest

_TESTS = Path(__file__).with_name("scripts")
_TIMEOUT_S = 120.0  # for what takes a second or two, on a machine that has other work
_MIN_NODE = 20
_OWN = sorted(name for name in NAMES if name.endswith(".js") and not name.startswith("vendor/"))

_IMPORT = re.compile(r'^import (?:\* as (\w+)|(\w+)|\{([^}]*)\}) from "([^"]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function\*?|const|class|let) (\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed: the pages' scripts are tested where it is")
    version = subprocess.run(
        [found, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    ).stdout
    if int(version.lstrip("v").split(".")[0]) < _MIN_NODE:
        pytest.skip(f"node is {version.strip()}: the pages' scripts are tested with {_MIN_NODE} or newer")
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts as a browser gets them, with their tests beside them, as modules."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "package.json").write_text('{"type": "module"}')
    for name in (name for name in NAMES if name.endswith(".js")):
        path = folder / "assets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page_file(name).plain)
    shutil.copytree(_TESTS, folder / "tests")
    return folder


def test_the_scripts_do_what_their_tests_say(node: str, site: Path) -> None:
    tests = sorted(str(path) for path in (site / "tests").glob("*.test.js"))
    assert tests
    run = subprocess.run(
        [node, "--test", *tests], cwd=site, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_curve_has_the_color_of_its_legend() -> None:
    css = page_file("dashboard.css").plain.decode()
    keys = dict(re.findall(r"\.key\.(\w+) \{ background: (var\(--\w+\));", css))
    curves = dict(re.findall(r"\.curve\.(\w+), \.dot\.\w+ \{ stroke: (var\(--\w+\));", css))
    drawn = {
        color
        for name in _OWN
        for line in page_file(name).plain.decode().splitlines()
        if "points" in line
        for color in re.findall(r'color: "(\w+)"', line)
    }
    assert drawn
    assert {color: curves[color] for color in drawn} == {color: keys[color] for color in drawn}


def test_every_script_can_be_parsed(node: str, site: Path) -> None:
    script = """
        import { readFileSync } from "node:fs";
        import { SourceTextModule } from "node:vm";
        let number = 0;
        for (const path of process.argv.slice(1)) {
            new SourceTextModule(readFileSync(path, "utf8"), { identifier: path });
            number += 1;
        }
        console.log(number);"""
    paths = [str(site / "assets" / name) for name in _OWN]
    command = [node, "--experimental-vm-modules", "--input-type=module", "--eval", script, *paths]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == len(_OWN)


def _imports() -> list[tuple[str, str, set[str] | None, set[str]]]:
    """(script, the one that it imports, which names, those that it uses); None: all, or the default."""
    found = []
    for name in _OWN:
        text = page_file(name).plain.decode()
        for everything, default, names, source in _IMPORT.findall(text):
            target = _resolve(name, source)
            own = [each.strip().partition(" as ") for each in names.split(",") if each.strip()]
            rest = _IMPORT.sub("", text)
            local = {as_ or exported for exported, _, as_ in own} or {everything or default}
            used = {each for each in local if re.search(rf"\b{each}\b", rest)}
            assert used == local, f"{name} imports {sorted(local - used)} and does not use it"
            found.append((name, target, {exported for exported, _, _ in own} or None, used))
    return found


def _resolve(name: str, source: str) -> str:
    parts = name.split("/")[:-1]
    for part in source.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def test_settings_have_the_limits_of_the_api(node: str, site: Path) -> None:
    stops = [["a" * 1024] * 64, ["a"] * 65, ["a" * 1025]]
    script = f"""
        import {{ FIELDS, textProblemOf }} from "{site}/assets/chat/settings/settings.js";
        const isStopWrong = {json.dumps(stops)}.map((each) => textProblemOf("stop", each.join("\\n")) !== "");
        console.log(JSON.stringify([FIELDS, isStopWrong]));"""
    run = subprocess.run(
        [node, "--input-type=module", "--eval", script], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    )
    fields, is_stop_wrong = json.loads(run.stdout)
    assert is_stop_wrong == [not _is_accepted("stop", each) for each in stops]
    for field in fields:
        name, step = field["name"], field["step"]
        lowest = field["min"] if "min" in field else field["above"] + step
        assert _is_accepted(name, lowest), name
        assert _is_accepted(name, field["max"]), name
        if name == "seed":  # a number of JavaScript is exact up to here
            continue
        assert not _is_accepted(name, field["max"] + step), name
        if name != "max_tokens":  # 0 would be no answer
            assert not _is_accepted(name, lowest - step), name


def _is_accepted(name: str, value: object) -> bool:
    try:
        validate(GenerationRequest, {name: value})
    except InvalidRequest:
        return False
    return True


@pytest.mark.fast
def test_what_a_script_imports_exists_and_is_used_and_what_one_exports_is_imported() -> None:
    exports = {name: set(_EXPORT.findall(page_file(name).plain.decode())) for name in _OWN}
    assert sum(len(names) for names in exports.values()) > 50  # the pattern finds them
    unused = {(name, each) for name, names in exports.items() for each in names}
    for name, target, names, _ in _imports():
        assert target in NAMES, f"{name} imports {target}, which is not there"
        if target.startswith("vendor/"):
            continue
        wanted = exports[target] if names is None else names
        assert wanted <= exports[target], f"{name} imports {sorted(wanted - exports[target])} from {target}"
        unused -= {(target, each) for each in wanted}
    for name in _OWN:  # those that are loaded when they are needed
        for each, source in re.findall(
            r'const \{ (\w+) \} = await import\("([^"]+)"\)', page_file(name).plain.decode()
        ):
            assert each in exports[_resolve(name, source)], f"{name} imports {each} from {source}"
            unused.discard((_resolve(name, source), each))
    tests = "".join(path.read_text() for path in _TESTS.glob("*.test.js"))
    assert {f"{name}: {each}" for name, each in unused if not re.search(rf"\b{each}\b", tests)} == set()


@pytest.mark.fast
def test_every_script_is_loaded_by_a_page() -> None:
    reached = {"chat/main.js", "dashboard/main.js"}
    edges = {(name, target) for name, target, _, _ in _imports()}
    for name in _OWN:  # those that are loaded when they are needed
        text = page_file(name).plain.decode()
        loaded = re.findall(r'import\("([^"]+)"\)|new URL\("([^"]+)", import\.meta\.url\)', text)
        edges |= {(name, _resolve(name, script or worker)) for script, worker in loaded}
    while more := {target for name, target in edges if name in reached} - reached:
        reached |= more
    assert {name for name in NAMES if name.endswith((".js", ".bin"))} == {
        name for name in reached if not name.endswith(".css")
    }
