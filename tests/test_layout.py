"""The layout in README, read from the source: who may import whom, and what is explained."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"types", "trees", "files"}
BLOCKS = {"nn", "data", "optim"}
QUESTIONS = {
    *("supervised", "transfer", "adaptation", "validation", "search", "predict", "pinn"),
    *("attribution", "units", "dense"),
}
ENGINE = {"train"}
REPORT = {"report"}
ROOMS = GROUND | BLOCKS | QUESTIONS | ENGINE | REPORT


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


LIBRARY = files("jaxdl")
EVERYTHING = [*LIBRARY, *files("experiments"), *files("configs"), *files("tests")]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def parse(path):
    """The syntax tree of a file; cached, since several tests read each."""
    return ast.parse(path.read_text())


@functools.cache
def imports(path):
    """Full names of all modules that a file imports, anywhere in it."""
    name = name_of(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            # "from jaxdl import trees" imports a module, "from jaxdl.trees import stack" does not.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(found)


def room(module):
    """The room of a module of jaxdl; empty for jaxdl itself."""
    return [*module.split("."), ""][1]


def allowed(here):
    """The rooms whose modules a module of this room may import."""
    if here in GROUND or not here:
        return GROUND
    if here in BLOCKS:
        return GROUND | {here}
    return GROUND | BLOCKS | {here}


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def test_there_is_something_to_read():
    assert {room(name_of(path)) for path in LIBRARY} >= GROUND | BLOCKS | ENGINE | REPORT
    assert "jaxdl.data.batches.batch_ids" in imports(ROOT / "jaxdl/train/population.py")
    assert "jaxdl.trees" in imports(ROOT / "jaxdl/train/evaluate.py")


@pytest.mark.parametrize("path", LIBRARY, ids=ids(LIBRARY))
def test_imports_run_one_way(path):
    here = room(name_of(path))
    assert here in ROOMS | {""}, f"{here} is in no room of the layout"
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in ("experiments", "configs", "tests"), f"the library imports {module}"
        if top == "jaxdl" and module != top:  # which has the version, and nothing else
            assert room(module) in allowed(here), f"{here} imports {module}"


def test_tensorflow_is_imported_nowhere():
    for path in EVERYTHING:
        tops = {module.split(".")[0] for module in imports(path)}
        assert not tops & {"tensorflow", "tf", "keras"}, path


def test_nothing_is_unpickled():
    """For a pickle may run any code."""
    for path in [*LIBRARY, *files("experiments"), *files("configs")]:
        tops = {module.split(".")[0] for module in imports(path)}
        assert not tops & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}, path
        assert not re.search(r"allow_pickle\s*=\s*True|torch\.load", path.read_text()), path


def test_only_studies_know_configs_and_flags():
    for path in LIBRARY:
        found = imports(path)
        if path == ROOT / "jaxdl/data/streams.py":
            assert "absl.flags" in found  # where grain's worker processes look for their options
            found = found - {"absl.flags"}
        tops = {module.split(".")[0] for module in found}
        assert not tops & {"absl", "ml_collections"}, path


def public(body, prefix=""):
    """Public functions and classes, and the public methods of these, with their names."""
    for node in body:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", LIBRARY, ids=ids(LIBRARY))
def test_what_is_public_is_explained(path):
    tree = parse(path)
    assert ast.get_docstring(tree), "the module has no docstring"
    silent = [name for name, node in public(tree.body) if not ast.get_docstring(node)]
    assert not silent, f"without a docstring: {', '.join(silent)}"


PRODUCT = [*LIBRARY, *files("experiments"), *files("configs")]
BINARY = (
    "os.open",
    "Image.open",
    "archive.open",
    "source.test.open",
)  # functions of that name that open no text


def opens_text_as_the_locale_has_it(call):
    """Whether a call opens text without an encoding: then it fails where the locale is no UTF-8."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    options = {option.arg: option.value for option in call.keywords}
    if "encoding" in options or ast.unparse(call.func) in BINARY:
        return False
    if name in ("run", "Popen", "check_output"):
        return bool({"text", "universal_newlines"} & options.keys())
    if name in ("open", "fdopen"):
        of_path = isinstance(call.func, ast.Attribute) and name == "open"
        mode = options.get("mode", dict(enumerate(call.args)).get(0 if of_path else 1))
        return "b" not in getattr(mode, "value", "")
    if name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"):
        mode = options.get("mode", dict(enumerate(call.args)).get(0))
        return mode is not None and "b" not in mode.value
    return name in ("read_text", "write_text")


@pytest.mark.parametrize(
    ("line", "is_text"),
    [
        ("open(path)", True),
        ("open(path, 'a')", True),
        ("open(path, 'rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('w')", True),
        ("path.open(mode='wb')", False),
        ("os.fdopen(1, 'w')", True),
        ("os.open(path, os.O_RDONLY)", False),
        ("path.read_text()", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("NamedTemporaryFile()", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
    ],
)
def test_what_opens_text_is_recognised(line, is_text):
    assert opens_text_as_the_locale_has_it(ast.parse(line).body[0].value) == is_text


@pytest.mark.parametrize("path", PRODUCT, ids=ids(PRODUCT))
def test_text_is_opened_with_an_encoding(path):
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    lines = [ast.unparse(call) for call in calls if opens_text_as_the_locale_has_it(call)]
    assert not lines, "without encoding='utf-8': " + "; ".join(lines)
