"""Files of a language: `languages/CODE/` holds one small file per purpose."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "languages"

DATA, PROMPTS, TRANSLATION, ANSWERS = (
    f"{name}.yaml" for name in ("data", "prompts", "translation", "answers")
)
PURPOSES = {
    DATA: "wordings of questions, number words and categories; needed for the embedded data",
    PROMPTS: "prompts of benchmark questions, words for yes and no; needed for every evaluation",
    TRANSLATION: "translation prompt for a language model; needed by data_prep.prepare",
    ANSWERS: "number words and articles; used to compare answers beside the official score",
}
"""File name -> purpose. A missing file is reported by the code that needs it."""


def language_file(code: str, name: str, folder: Path = FOLDER) -> Path:
    """Return the path of a language's file, which may not exist."""
    return folder / code / name


def missing_files(code: str, folder: Path = FOLDER) -> dict[str, str]:
    """Return the files that a language lacks, with their purposes."""
    return {n: why for n, why in PURPOSES.items() if not language_file(code, n, folder).is_file()}
