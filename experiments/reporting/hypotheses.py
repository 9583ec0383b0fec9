"""The claims of the study, with margins fixed before any grid is run, and what the data say.

PAPER: 20 % of target-language pictures is enough; text-only target-language data helps; a backbone
adapted to the target language is not needed. Comparisons are paired by question and clustered by
picture; p-values are corrected over all claims of a report (Holm).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.predictions import read_predictions
from evaluation.statistics import Decision, apply_holm, equivalence, non_inferiority
from experiments.reporting.numbers import (
    ENOUGH_SHARE,
    MAIN,
    SHARE,
    Setting,
    View,
    best_point,
    lines,
    percent,
    setting_of,
    share_of,
    with_axis,
)
from experiments.reporting.records import CellRecord, GridRecord

DELTA = 0.03
"""Margin of every claim: three points of accuracy."""
_BENCHMARK = "vqa"
_SEED = 0

Scores = dict[tuple[Setting, float], "Paired"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Scores per question, mean over seeds, in one order for all cells."""

    questions: tuple[str, ...]
    pictures: tuple[str, ...]
    scores: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claim in words and the decision about it (None: this grid can't tell)."""

    text: str
    detail: str
    decision: Decision | None


def decide_claims(grid: GridRecord, view: View) -> list[Claim]:
    """All claims this grid bears on, decided together."""
    scores = target_scores(grid, view.target)
    claims = [*_enough(grid, view, scores), *_text_only(view, scores)]
    claims += [*_backbones(view, scores), *_stages(scores)]
    decided = [claim.decision for claim in claims if claim.decision is not None]
    corrected = iter(apply_holm(decided) if decided else [])
    return [c if c.decision is None else _replace(c, next(corrected)) for c in claims]


def _enough(grid: GridRecord, view: View, scores: Scores) -> list[Claim]:
    """PAPER claim 1, once per setting."""
    if not view.is_curve or ENOUGH_SHARE not in view.shares:
        return []
    claims = []
    for setting in view.settings:
        drawn = [line for line in lines(grid, view, MAIN) if line.setting == setting]
        best = best_point(drawn, view.target)
        text = f"{percent(ENOUGH_SHARE)} is enough" + _suffix(view, setting)
        mine = scores.get((setting, ENOUGH_SHARE))
        if best is None or mine is None:
            claims.append(Claim(text=text, detail="not run yet", decision=None))
            continue
        share = best[1].share
        detail = f"{percent(ENOUGH_SHARE)} against the best share seen, {percent(share)}"
        if share == ENOUGH_SHARE:
            detail = f"{percent(ENOUGH_SHARE)} is itself the best share seen"
        other = scores[setting, share]
        decision = non_inferiority(*_pair(mine, other), delta=DELTA, seed=_SEED)
        claims.append(Claim(text=text, detail=detail, decision=decision))
    return claims


def _text_only(view: View, scores: Scores) -> list[Claim]:
    """PAPER claim 3: the mean over all shares that were run both ways."""
    offs = [s for s in view.settings if not dict(s).get("text_only", True)]
    claims = []
    for off in offs:
        on = with_axis(off, "text_only", value=True)
        shares = _common(scores, on, off)
        if on not in view.settings:
            continue
        suffix = _suffix(view, off, leave_out="text_only")
        detail = f"on minus off, mean over {len(shares)} shares" if shares else "not run yet"
        decision = None
        if shares:
            first = _mean([scores[on, share] for share in shares])
            second = _mean([scores[off, share] for share in shares])
            decision = _superiority(first, second)
        text = "Text-only data in the target language helps" + suffix
        claims.append(Claim(text=text, detail=detail, decision=decision))
    return claims


def _backbones(view: View, scores: Scores) -> list[Claim]:
    """PAPER claim 2: the first backbone named is the general one."""
    names = list(dict.fromkeys(str(dict(s).get("backbone")) for s in view.settings))
    claims = []
    for name in names[1:]:
        pairs = [
            ((with_axis(other, "backbone", value=names[0]), share), (other, share))
            for other, share in scores
            if dict(other).get("backbone") == name
        ]
        pairs = [pair for pair in pairs if pair[0] in scores]
        if not pairs:
            continue
        first, second = (_mean([scores[pair[side]] for pair in pairs]) for side in (0, 1))
        detail = f"{names[0]} minus {name}, mean over {len(pairs)} pairs of cells"
        worse = non_inferiority(*_pair(first, second), delta=DELTA, seed=_SEED)
        same = equivalence(*_pair(first, second), delta=DELTA, seed=_SEED)
        text = f"The {name} backbone is not needed"
        claims.append(Claim(text=text, detail=detail, decision=worse))
        text = f"The {names[0]} and the {name} backbone do equally well"
        claims.append(Claim(text=text, detail=detail, decision=same))
    return claims


def _stages(scores: Scores) -> list[Claim]:
    """What each training stage adds to the other alone."""
    words = {
        "instruct_only": "Alignment (stage 1) helps",
        "align_only": "Instruction (stage 2) helps",
    }
    claims = []
    for (setting, share), without in scores.items():
        kind = str(dict(setting).get("stages"))
        both = scores.get((with_axis(setting, "stages", value="both"), share))
        if kind in words and both is not None:
            detail = f"both stages minus {kind.replace('_', ' ')}, at {percent(share)}"
            decision = _superiority(both, without)
            claims.append(Claim(text=words[kind], detail=detail, decision=decision))
    return claims


def _superiority(first: Paired, second: Paired) -> Decision:
    """Is the first better at all? Non-inferiority to the second raised by the margin."""
    a, b, pictures = _pair(first, second)
    raised = non_inferiority(a, b + DELTA, pictures, delta=DELTA, seed=_SEED)
    seen = dataclasses.replace(
        raised.difference,
        value=raised.difference.value + DELTA,
        low=raised.difference.low + DELTA,
        high=raised.difference.high + DELTA,
    )
    return dataclasses.replace(raised, difference=seen, delta=0.0)


def target_scores(grid: GridRecord, language: str) -> Scores:
    """Per setting and share, the scores of every question of the main benchmark."""
    cells: dict[tuple[Setting, float], list[CellRecord]] = {}
    for cell in grid.cells:
        if cell.evaluation is not None and cell.evaluation.predictions.is_file():
            cells.setdefault((setting_of(cell), share_of(cell)), []).append(cell)
    return {key: _mean([_read(cell, language) for cell in same]) for key, same in cells.items()}


def _read(cell: CellRecord, language: str) -> Paired:
    table = read_predictions(cell.stages["evaluate"].predictions)
    names = ("question_id", "image_key", "score", "benchmark", "language")
    columns = [table[name].to_pylist() for name in names]
    rows = sorted(
        (question, picture, score)
        for question, picture, score, benchmark, asked in zip(*columns, strict=True)
        if benchmark == _BENCHMARK and asked == language
    )
    return Paired(
        questions=tuple(row[0] for row in rows),
        pictures=tuple(row[1] for row in rows),
        scores=np.array([row[2] for row in rows]),
    )


def aligned(parts: Sequence[Paired]) -> list[Paired]:
    """The same on the questions that all have, in the order of the first."""
    common = set(parts[0].questions).intersection(*(part.questions for part in parts))
    return [_select(part, [q for q in parts[0].questions if q in common]) for part in parts]


def _mean(parts: Sequence[Paired]) -> Paired:
    """Mean per question, over the questions that all parts have."""
    same = aligned(parts)
    return dataclasses.replace(same[0], scores=np.mean([part.scores for part in same], axis=0))


def _pair(first: Paired, second: Paired) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Scores of both on the questions they share, in the order of the first, and the pictures."""
    known = set(second.questions)
    common = [question for question in first.questions if question in known]
    a, b = _select(first, common), _select(second, common)
    return a.scores, b.scores, a.pictures


def _select(part: Paired, questions: Sequence[str]) -> Paired:
    position = {question: at for at, question in enumerate(part.questions)}
    rows = [position[question] for question in questions]
    pictures = tuple(part.pictures[row] for row in rows)
    return Paired(questions=tuple(questions), pictures=pictures, scores=part.scores[rows])


def _common(scores: Mapping[tuple[Setting, float], Paired], a: Setting, b: Setting) -> list[float]:
    return sorted(share for setting, share in scores if setting == a and (b, share) in scores)


def _suffix(view: View, setting: Setting, *, leave_out: str = SHARE) -> str:
    kept = tuple((name, value) for name, value in setting if name != leave_out)
    reduced = tuple(tuple((n, v) for n, v in s if n != leave_out) for s in view.settings)
    label = dataclasses.replace(view, settings=reduced).label(kept)
    return "" if label == "all cells" else f", {label}"


def _replace(claim: Claim, decision: Decision) -> Claim:
    return dataclasses.replace(claim, decision=decision)
