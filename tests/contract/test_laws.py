"""The laws of the repository that no linter keeps: sizes, names, claims and reasons.

CONTRIBUTING.md lists them beside those that ruff, mypy and import-linter keep.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("vision", "configs", "training", "edge_runtime", "cluster")
FOLDERS = (*PACKAGES, "benchmarks", "docs", "tests")
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
# Each list of cases asserts how many it saw, or an empty glob would pass every law.
LEAST_FILES = 150
LEAST_CLAIMS = 5

# Files whose tables read better as they are written: no formatter touches these lines.
TABLES = ("vision/simulator/catalogue.py", "vision/simulator/shading.py")

# Words that a reader of the field does not use: the word as it stands in a name that is split at
# underscores and capitals, what to write instead, and "file:name" of the places where it means
# another thing. A word between ^ and $ is the whole name. Names imported from libraries are not
# ours.
OLD_WORDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"cut_?outs?", "background swap", ()),
    (r"foreign", "outlier", (r":foreign_keys?(_constraint)?$",)),  # SQL's
    (r"calm_epochs", "mixup_off_epochs", ()),
    (r"head_epochs", "freeze_backbone_epochs", ()),
    (r"known_answers?", "expected output", ()),
    (r"judges?|judged", "score or decide", ()),
    (r"^watch$", "progress", ()),  # a watchdog and `_watch` are other things
    (r"pictures?", "image", ()),
    (r"eyesight", "camera monitor", ()),
    (r"^looks$", "views", ()),
    # A circuit board is an item; the white board is the background of TrashNet's photographs.
    (r"boards?", "device", (r":circuit_board$", r"/(test_)?background\.py:")),
    (r"doors?", "consumer, or front end", ()),
    (r"doubles", "duplicates", ()),
    (r"partials?", "part", ()),
    (r"anew", "again", ()),
    (r"told", "reported", ()),
    (r"said", "reported", ()),
    (r"words", "message", ()),
    (r"why", "reason", ()),
    (r"films?", "recording", (r"^vision/simulator/sheets\.py:film$", r"catalogue\.py:film$")),
    (r"keepers?", "services", ()),
)


@cache
def _files() -> tuple[Path, ...]:
    below = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return (*sorted(ROOT.glob("*.py")), *below)


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_text(path))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tokens(path: Path, kind: int) -> Iterator[tokenize.TokenInfo]:
    for token in tokenize.generate_tokens(io.StringIO(_text(path)).readline):
        if token.type == kind:
            yield token


def _report(broken: list[str]) -> str:
    return f"{len(broken)} places break this law:\n" + "\n".join(broken)


def test_no_function_and_no_file_is_longer_than_one_reads_at_once() -> None:
    """A function has at most 60 lines, its docstring counted, and a file at most 400."""
    broken = []
    functions = 0
    for path in _files():
        lines = len(_text(path).splitlines())
        if lines > MAX_FILE_LINES:
            broken.append(f"{_name(path)}: {lines} lines")
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    broken.append(f"{_name(path)}:{node.lineno}: {node.name} has {length} lines")
    assert len(_files()) >= LEAST_FILES
    assert functions >= 1000
    assert not broken, _report(broken)


def test_no_statement_packs_unrelated_assignments() -> None:
    """Nothing is written `a, b = x, y`, unless a value uses a target, as a swap does."""
    broken = []
    assignments = 0
    for path in _files():
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.Assign):
                continue
            assignments += 1
            if any(_is_packed(target, node.value) for target in node.targets):
                broken.append(f"{_name(path)}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert assignments >= 3000
    assert not broken, _report(broken)


def _is_packed(target: ast.expr, value: ast.expr) -> bool:
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return False
    if len(target.elts) != len(value.elts):
        return False
    targets = {ast.unparse(element) for element in target.elts}
    used = {ast.unparse(part) for part in ast.walk(value) if isinstance(part, ast.expr)}
    return not targets & used


def test_names_are_the_fields_words() -> None:
    """No name of ours, of a file or in it, holds a word that the field does not use."""
    broken = []
    names = 0
    for path in _files():
        if path == Path(__file__):
            continue
        found = {path.stem: 0}
        for token in _tokens(path, tokenize.NAME):
            found.setdefault(token.string, token.start[0])
        names += len(found)
        for name in found.keys() - _borrowed(path):
            for reason in _old_words(name, path):
                broken.append(f"{_name(path)}:{found[name]}: {name}: {reason}")
    assert names >= 10_000
    assert not broken, _report(sorted(broken))


def _borrowed(path: Path) -> set[str]:
    """Return the names that a module imports from libraries, such as functools.partial."""
    return {
        alias.asname or alias.name
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] not in (*PACKAGES, "tests", "benchmarks")
        for alias in node.names
    }


def _old_words(name: str, path: Path) -> Iterator[str]:
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)
    plain = "_".join(parts).lower()
    for pattern, instead, elsewhere in OLD_WORDS:
        if pattern.startswith("^"):
            hit = re.search(pattern, name.lower())
        else:
            hit = re.search(rf"(?:^|_)(?:{pattern})(?:_|$)", plain)
        if not hit:
            continue
        if not any(re.search(place, f"{_name(path)}:{plain}") for place in elsewhere):
            yield f"write {instead!r}"


def test_what_calls_itself_the_only_address_of_a_library_is_that() -> None:
    """A module docstring that says "only address of NAME" is true: no other module imports NAME.

    The claim holds within the module's own package, or everywhere if it ends with "in the product".
    A claim in an `__init__.py` is made for its folder.
    """
    broken = []
    claims = 0
    for path in _files():
        package = path.relative_to(ROOT).parts[0]
        text = " ".join((ast.get_docstring(_tree(path)) or "").split())
        if package not in PACKAGES:
            continue
        for found in re.finditer(r"only address of `?(\w+)`?( in the product)?", text):
            claims += 1
            library = found[1].lower()
            scope = PACKAGES if found[2] else (package,)
            importers = {
                other
                for other in _files()
                if other.relative_to(ROOT).parts[0] in scope and library in _imports(other)
            }
            home = {
                other
                for other in importers
                if other == path or (path.stem == "__init__" and path.parent in other.parents)
            }
            if not home:
                broken.append(f"{_name(path)}: claims {library} and does not import it")
            broken += [f"{_name(o)}: imports {library} of {_name(path)}" for o in importers - home]
    assert claims >= LEAST_CLAIMS
    assert not broken, _report(broken)


@cache
def _imports(path: Path) -> frozenset[str]:
    """Return the top-level names that a module imports anywhere in it, in lower case."""
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0].lower() for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0].lower())
    return frozenset(names)


def test_no_file_is_named_after_nothing() -> None:
    """No file is called utils.py or helpers.py: a file's name says what is in it."""
    named = {"utils", "util", "helpers", "helper", "misc", "common"}
    broken = [_name(path) for path in _files() if path.stem in named]
    assert len(_files()) >= LEAST_FILES
    assert not broken, _report(broken)


def test_each_exception_to_the_linter_has_its_reason() -> None:
    """Each `# noqa` names its rules and, after two spaces, its reason."""
    broken = []
    exceptions = 0
    for path in _files():
        for token in _tokens(path, tokenize.COMMENT):
            if not re.match(r"#\s*noqa", token.string):
                continue
            exceptions += 1
            if not re.fullmatch(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)*  \S.*", token.string):
                broken.append(f"{_name(path)}:{token.start[0]}: {token.string}")
    assert exceptions >= 5
    assert not broken, _report(broken)


def test_only_tables_are_kept_from_the_formatter() -> None:
    """`# fmt: skip` and `# fmt: off` stand in the two files of tables alone."""
    broken = []
    kept = 0
    for path in _files():
        for token in _tokens(path, tokenize.COMMENT):
            if re.match(r"#\s*fmt:", token.string):
                kept += 1
                if _name(path) not in TABLES:
                    broken.append(f"{_name(path)}:{token.start[0]}: {token.string}")
    assert kept >= 2
    assert not broken, _report(broken)


def test_the_laws_notice_what_breaks_them() -> None:
    """A planted word and a planted packed assignment are found; a swap and a library's are not."""
    packed = {
        "a, b = 1, 2": True,
        "a, b = b, a": False,
        "a, b = b, a + b": False,
        "a, b = c": False,
    }
    for statement, expected in packed.items():
        node = ast.parse(statement).body[0]
        assert isinstance(node, ast.Assign)
        assert _is_packed(node.targets[0], node.value) is expected
    here = Path(__file__)
    for name in (
        "pictureCount",
        "cut_outs",
        "_told",
        "MqttDoor",
        "watch",
        "KnownAnswer",
        "reason_why",
    ):
        assert list(_old_words(name, here)), name
    for name in (
        "watchdog",
        "indoors",
        "keyboard",
        "circuit_board",
        "swords",
        "looks_like",
        "partition",
    ):
        assert not list(_old_words(name, here)), name
