"""Questions in the terminal: a translation for every empty place."""

from pathlib import Path

from core.io.files import atomic_write_text
from data_prep.new_language.slots import Slot, fill, find_slots
from data_prep.new_language.template import HELP

_SHOWN_REQUEST = "{question}\\n"
"""Beginning of prompts that is not translated."""


def confirm(question: str) -> bool:
    """Ask a question with the answers yes and no; no answer means no."""
    try:
        return input(f"{question} [y/N] ").strip().casefold() in ("y", "yes")
    except EOFError:
        return False


def ask_for_gaps(folder: Path) -> None:
    """Ask for every empty place of the files of a language; each answer is saved at once.

    An empty reply leaves a place as it is, and the end of the input ends the questions.

    Args:
        folder: Folder of the language.
    """
    given: dict[str, str] = {}
    try:
        for name in HELP:
            path = folder / name
            if path.is_file():
                _ask_for_file(path, given)
    except EOFError:
        print("\nstopped; the same command continues here")  # noqa: T201 - a dialogue


def _ask_for_file(path: Path, given: dict[str, str]) -> None:
    slots = find_slots(path.read_text(encoding="utf-8"))
    if not slots:
        return
    print(f"\n{path}\n{HELP[path.name]}")  # noqa: T201 - a dialogue
    names = [slot for slot in slots if slot.is_optional and not slot.is_list]
    skips_names = bool(names) and not confirm(f"Name the {len(names)} objects now?")
    left = 0
    while len(slots) > left:
        slot = slots[left]
        is_name = slot.is_optional and not slot.is_list
        answer = "" if is_name and skips_names else _ask(slot, given)
        if not answer:
            left += 1
            continue
        given[slot.english] = answer
        atomic_write_text(path, fill(path.read_text(encoding="utf-8"), slot, answer))
        slots = find_slots(path.read_text(encoding="utf-8"))


def _ask(slot: Slot, given: dict[str, str]) -> str:
    """Return what belongs in a place, or "" to leave it empty."""
    request = slot.english.startswith(_SHOWN_REQUEST)
    shown = slot.english.removeprefix(_SHOWN_REQUEST)
    before = given.get(slot.english, "")
    hint = f" [{before}]" if before else " (optional, commas between words)" * slot.is_list
    while True:
        reply = input(f"  {shown}{hint}\n  > ").strip() or ("" if slot.is_list else before)
        if not reply:
            return ""
        answer = reply
        if request and not reply.startswith("{question}"):
            answer = _SHOWN_REQUEST + reply
        if not (reason := slot.refuse(answer)):
            return answer
        print(f"  {reason}")  # noqa: T201 - a dialogue
