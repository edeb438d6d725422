"""The test images: opened once, by one line, when everything is trained."""

import ast
import json

import pytest

from tests.experiments.launcher import ROOT
from tests.experiments.tiny import NETWORKS, POPULATIONS, STEPS, curves, rows


def test_the_test_images_are_opened_once_when_everything_is_trained(finished):
    """What is on disk when they are: all curves to the end, all checkpoints, and no result."""
    (seen,) = (finished[0].parent / "opened").read_text().splitlines()
    trained = {f"checkpoints/{name}/{STEPS}" for name in POPULATIONS}
    assert json.loads(seen) == {
        "lines": NETWORKS * STEPS // 2,
        "files": sorted({"config.json", "run.json", "metrics.jsonl"} | trained),
    }


def test_a_run_that_reports_on_validation_leaves_them_closed(start, tmp_path):
    prelude = """
        from jaxdl.data.source import Sealed

        def refuse(self):
            raise AssertionError("opened")

        Sealed.open = refuse
    """
    arguments = ("--config.report_on=validation", "--config.treatments=()")
    ended = start(tmp_path, *arguments, prelude=prelude).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert "accuracy on the validation split" in ended.out
    # What is reported is the end of the curves.
    last = {
        (r["direction"], r["treatment"]): r["validation_accuracy"]
        for r in curves(tmp_path)
        if r["step"] == STEPS
    }
    found = {(r["direction"], r["treatment"]): float(r["accuracy"]) for r in rows(tmp_path)}
    assert found == pytest.approx(last, abs=1e-6)


def test_one_line_of_the_study_leads_to_the_test_images():
    """``source.test.open()``, in ``conduct``, after the training and before the measurement."""
    harness = sorted((ROOT / "experiments/harness").glob("*.py"))
    studies = sorted((ROOT / "experiments").glob("*.py"))
    parsed = {path: ast.parse(path.read_text()) for path in (*studies, *harness)}
    source = ast.parse((ROOT / "jaxdl/data/source.py").read_text())
    uses = [
        ast.unparse(node)
        for tree in parsed.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("test", "open", "_split")
        if ast.unparse(node) != "os.open"
    ]
    # The others ask for its size and counts, and whether it is whole.
    assert sorted(uses) == [*["source.test"] * 5, "source.test.open"]
    study = parsed[ROOT / "experiments/harness/study.py"]
    (body,) = [node.body for node in study.body if getattr(node, "name", "") == "conduct"]
    names = ("study.train", "source.test.open", "study.measure")
    calls = [
        (node.lineno, node.col_offset, ast.unparse(node.func))
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]
    calls = [name for *_, name in sorted(calls)]  # as they stand in the file
    assert calls == list(names)
    (sealed,) = [node for node in source.body if getattr(node, "name", "") == "Sealed"]
    hidden = [n for n in ast.walk(source) if getattr(n, "attr", "") == "_split"]
    assert hidden and set(hidden) <= set(ast.walk(sealed))
