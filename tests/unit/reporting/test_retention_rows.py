"""Rows of language models without images."""

from types import SimpleNamespace

from reporting.sections.retention_rows import _name_backbones


def test_language_models_of_one_name_are_told_apart() -> None:
    """Grids over `backbones.NAME.revision` have two models that are called `general`."""
    stages = [
        SimpleNamespace(address=f"a{at}", params=params, title=title)
        for at, (params, title) in enumerate(
            (
                ({"backbone": "adapted"}, ""),
                ({"backbone": "general"}, "backbone revision=a"),
                ({"backbone": "general"}, ""),
                ({"cell.backbone": "base_only"}, ""),
            )
        )
    ]
    assert _name_backbones(stages) == {  # type: ignore[arg-type]
        "a0": "adapted", "a1": "backbone revision=a", "a2": "general a2", "a3": "base_only"
    }  # fmt: skip
