"""The digest of a stage's code changes with what it computes, and with nothing else."""

from pathlib import Path
from textwrap import dedent

import pytest

from core.errors import ConfigError
from pipeline import code_digest as module
from pipeline.code_digest import CodeDigest, code_digest
from pipeline.stages.evaluate import EvaluateStage
from pipeline.stages.instruct import InstructStage
from tests.golden.code_digests import find_problem, updated

FILES = {
    "pipeline/stages/work.py": '''
        """A stage kind."""
        from core.errors import DataError
        from models import parts
        from models.maths import add, half
        class WorkStage:
            """A stage."""
            size: int = 3
            def run(self, context):
                """Compute."""
                return add(half(self.size), parts.load("a"))
            def estimate(self, estimator):
                return 1
    ''',
    "models/__init__.py": "",
    "models/maths.py": '''
        import logging
        _LOG = logging.getLogger("x")
        _FACTOR = 0.5
        """A factor."""
        def add(a: int, b: int) -> int:
            if a < 0:
                raise ValueError(f"negative: {a}")
            _LOG.info("adding")
            return a + b
        def half(a):
            return a * _FACTOR
        def unused(a):
            return a
    ''',
    "models/parts/__init__.py": """
        import importlib
        from models.parts import kinds
        def load(name):
            return importlib.import_module(f"{kinds.__name__}.{name}").VALUE
    """,
    "models/parts/kinds/__init__.py": "",
    "models/parts/kinds/a.py": "VALUE = 1\n",
    "core/__init__.py": "",
    "core/errors.py": "class DataError(Exception):\n    pass\n",
}
STAGE = type("WorkStage", (), {"__module__": "pipeline.stages.work"})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small project with one stage kind."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(dedent(text))
    monkeypatch.setattr(module, "_PROJECT", tmp_path)
    return tmp_path


def digest_of() -> CodeDigest:
    for cached in (module.code_digest, module._read_module):
        cached.cache_clear()
    try:
        return code_digest(STAGE)
    finally:
        for cached in (module.code_digest, module._read_module):
            cached.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("models/maths.py", "return a + b", "return b + a"),
        ("models/maths.py", "_FACTOR = 0.5", "_FACTOR = 0.25"),
        ("models/maths.py", "if a < 0", "if a <= 0"),
        ("models/maths.py", "raise ValueError", "raise TypeError"),
        ("models/parts/kinds/a.py", "VALUE = 1", "VALUE = 2"),
        ("pipeline/stages/work.py", "half(self.size)", "self.size"),
        ("pipeline/stages/work.py", "size: int = 3", "size: int = 4"),
    ],
)
def test_changed_computations_change_the_digest(
    project: Path, name: str, old: str, new: str
) -> None:
    before = digest_of()
    edit(project / name, old, new)
    assert digest_of().digest != before.digest


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("models/maths.py", "return a + b", "# the sum\n    return (a +\n        b)"),
        ("models/maths.py", '"""A factor."""', '"""Half."""'),
        ("models/maths.py", "negative: {a}", "a is {a}; give a positive number"),
        ("models/maths.py", '_LOG.info("adding")', '_LOG.warning("added %s", a)'),
        ("models/maths.py", "(a: int, b: int) -> int", "(a: float, b: float) -> float"),
        ("models/maths.py", "def unused(a):\n    return a", "def unused(a):\n    return -a"),
        ("pipeline/stages/work.py", "return 1", "return 2"),
        ("core/errors.py", "pass", "status = 2"),
    ],
)
def test_other_changes_do_not_change_it(project: Path, name: str, old: str, new: str) -> None:
    before = digest_of()
    edit(project / name, old, new)
    assert digest_of().digest == before.digest


def test_a_definition_may_move_to_another_module(project: Path) -> None:
    before = digest_of()
    edit(project / "models/maths.py", "def half(a):\n    return a * _FACTOR", "")
    edit(project / "models/maths.py", "_FACTOR = 0.5", "")
    (project / "models/halves.py").write_text(
        "_FACTOR = 0.5\ndef half(a):\n    return a * _FACTOR\n"
    )
    edit(
        project / "pipeline/stages/work.py",
        "from models.maths import add, half",
        "from models.halves import half\nfrom models.maths import add",
    )
    assert digest_of().digest == before.digest


def test_a_name_that_comes_from_elsewhere_changes_it(project: Path) -> None:
    before = digest_of()
    (project / "models/other.py").write_text("def half(a):\n    return a // 2\n")
    edit(
        project / "pipeline/stages/work.py",
        "from models.maths import add, half",
        "from models.maths import add\nfrom models.other import half",
    )
    assert digest_of().digest != before.digest


@pytest.mark.slow
def test_the_digests_of_this_project_cover_its_code() -> None:
    evaluation = set(code_digest(EvaluateStage).definitions)
    training = set(code_digest(InstructStage).definitions)
    assert {
        "evaluation.answers.languages.basque:RULES",
        "evaluation.metrics.vqa:official_score",
        "models.towers.libraries.timm:TimmTower",
        "core.chat.format:ChatFormat",
    } <= evaluation
    assert {"models.loss:summed_cross_entropy", "core.rng:named_rng"} <= training
    assert not [name for name in training if name.startswith(("evaluation.", "planner."))]
    left_out = ("reporting.", "experiments.", "pipeline.store", "pipeline.launchers")
    assert not [name for name in evaluation | training if name.startswith(left_out)]


CODE, OTHER = (
    CodeDigest(digest=digest, packages={"models": digest}, definitions=()) for digest in "ab"
)


def test_changed_code_needs_a_new_version_or_a_reason() -> None:
    record = updated("align", 1, CODE, None, "")
    assert find_problem("align", 1, CODE, None).startswith("stage kind 'align' is not recorded")
    assert not find_problem("align", 1, CODE, record)
    assert "in models" in find_problem("align", 1, OTHER, record)
    assert "raised to 2" in find_problem("align", 2, OTHER, record)
    assert "lowered from 1 to 0" in find_problem("align", 0, CODE, record)
    declared = updated("align", 1, OTHER, record, "a helper was renamed")
    assert [entry["reason"] for entry in declared["entries"]][1:] == ["a helper was renamed"]
    assert not find_problem("align", 1, OTHER, declared)
    raised = updated("align", 2, OTHER, record, "")
    assert len(raised["entries"]) == 1
    assert not find_problem("align", 2, OTHER, raised)
    without = {**declared, "entries": [*record["entries"], {"digest": "b", "reason": " "}]}
    assert "has no reason" in find_problem("align", 1, OTHER, without)
    with pytest.raises(ConfigError, match="raise `recipe_version`"):
        updated("align", 1, OTHER, record, "")
