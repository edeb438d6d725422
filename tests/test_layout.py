"""The layout of DESIGN.md, read from the source: who may import whom, and what is explained."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"types", "trees", "files"}
BLOCKS = {"nn", "data", "optim"}
QUESTIONS = {"transfer", "adaptation", "validation", "pinn"}
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


def imports(path):
    """Full names of all modules that a file imports, anywhere in it."""
    name = name_of(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            # "from jaxdl import trees" imports a module, "from jaxdl.trees import stack" does not.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


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


def test_only_studies_know_configs_and_flags():
    for path in LIBRARY:
        found = imports(path)
        if path == ROOT / "jaxdl/data/streams.py":
            found.remove("absl.flags")  # where grain's worker processes look for their options
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
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    silent = [name for name, node in public(tree.body) if not ast.get_docstring(node)]
    assert not silent, f"without a docstring: {', '.join(silent)}"
