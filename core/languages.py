"""Where everything about a language lies: `languages/CODE/`, one small file per purpose."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "languages"

DATA, PROMPTS, TRANSLATION, ANSWERS = (
    f"{name}.yaml" for name in ("data", "prompts", "translation", "answers")
)
PURPOSES = {
    DATA: "wordings of questions, number words, categories: for the embedded profile's data",
    PROMPTS: "how benchmark questions are put, words for yes and no: for every evaluation",
    TRANSLATION: "how a language model is asked to translate: for data_prep.prepare by endpoint",
    ANSWERS: "number words, articles: when two answers are the same, beside the official score",
}
"""File -> what it is for. What is missing is said where it is needed."""


def language_file(code: str, name: str, folder: Path = FOLDER) -> Path:
    """Path of a language's file, whether or not it is there."""
    return folder / code / name


def missing_files(code: str, folder: Path = FOLDER) -> dict[str, str]:
    """The files a language does not have yet, and what each is for."""
    return {n: why for n, why in PURPOSES.items() if not language_file(code, n, folder).is_file()}
