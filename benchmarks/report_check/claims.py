"""Check of the table of claims: differences, intervals, p-values, verdicts and left-out cells."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.report_check import own_statistics as own
from benchmarks.report_check.data import (
    BASE_SAMPLES,
    Checks,
    Grid,
    Setting,
    name_axis,
    name_value,
)
from benchmarks.report_check.measures import LEVEL, Measured, measure
from benchmarks.report_check.page import Cell, numbers

_BEFORE, _BEST, _OTHERS = "before_training", "best", "others"
_BASELINES = ("blind", "majority")
_MIN_SHARES = 3
_ROUNDING = 1e-12
Pair = tuple[Setting, Setting | None]
"""First and second cell; the second is None for the language model before training."""


@dataclass
class Expected:
    """One claim as it should be printed."""

    words: list[str]
    test: str
    margin: float
    relative: float | None
    pairs: list[Pair]
    measured: Measured
    is_best: bool
    is_open: bool
    """Whether a cell was not trained."""
    silent: list[Setting] = field(default_factory=list)
    kept: list[Pair] = field(default_factory=list)
    # Differences less the lower limit of the claim; one for each other share with `best`.
    models: list[own.Estimate] = field(default_factory=list)
    cautious: list[own.Estimate] = field(default_factory=list)
    recipes: list[own.Estimate] = field(default_factory=list)
    differences: list[own.Estimate] = field(default_factory=list)


def check_claims(grid: Grid, checks: Checks) -> None:
    """Compare all rows with the claims that follow from the registered hypotheses."""
    registered = grid.hypotheses["hypotheses"]
    expected = [claim for name in registered for claim in _claims(grid, name)]
    rows = grid.sections["claims"].tables[0].rows[1:]
    checks.same("number of claims", len(rows), len(expected))
    number = sum(bool(claim.kept) for claim in expected)
    for claim, row in zip(expected, rows, strict=False):
        name = f"claim “{', '.join(claim.words)}”"
        if claim.is_open:
            checks.same(f"{name}, of which cells have not run", ["not run" in row[1].text,
                        row[1].text.split()[0] in ("open", "undecided")], [True, True])  # fmt: skip
        elif _is_unchanged(claim):
            checks.same(f"{name}, whose texts can't change", ["no stage trains" in row[1].text,
                        *(row[at].text.split()[0] for at in (1, 2))],
                        [True, "undecided", "undecided"])  # fmt: skip
        elif claim.kept and _lacks_scale(claim):
            checks.same(f"{name}, whose best cell does not see", ["does not exist" in row[1].text,
                        *(row[at].text.split()[0] for at in (1, 2))],
                        [True, "undecided", "undecided"])  # fmt: skip
        elif claim.kept:
            _check_row(grid, checks, claim, row, number)
        else:
            name = f"{name} without cells above their baselines"
            checks.same(name, [row[at].text.split()[0] for at in (1, 2)], ["undecided"] * 2)


def _claims(grid: Grid, name: str) -> Iterator[Expected]:
    """Yield the claims of one hypothesis that apply to a grid."""
    known = grid.hypotheses["hypotheses"][name]
    kinds = known.get("kind", "vqa")
    language = grid.languages[0 if known.get("language", "target") == "target" else 1]
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        groups = list(_groups(grid, known))
        measured = measure(grid, known, kind, language) if groups else None
        if measured is None:
            continue
        for first, second, group, found in groups:
            words = [_fill(known, first, second), *_name_group(grid, group)]
            if isinstance(kinds, list):
                words.append(kind)
            cells = {cell for pair in found for cell in pair if cell is not None}
            claim = Expected(words=words, test=known["test"], relative=known.get("relative_margin"),
                             margin=_margin(grid, known, measured), pairs=found,
                             measured=measured, is_best=known["second"] == _BEST,
                             is_open=not cells <= {*grid.settings})  # fmt: skip
            yield claim if claim.is_open else _decide(claim)


def _is_unchanged(claim: Expected) -> bool:
    """Return whether no text of a measure of retention has another score than before."""
    gaps = [claim.measured.gap(pair) for pair in claim.pairs]
    return bool(claim.measured.before) and all(np.abs(gap).max() < _ROUNDING for gap in gaps)


def _lacks_scale(claim: Expected) -> bool:
    """Return whether a margin is relative to what the image contributes to a cell that is blind."""
    if not claim.is_best or claim.relative is None:
        return False
    measured = claim.measured
    others = [second for _, second in claim.pairs if second is not None]
    best = max(others, key=lambda cell: measured.items.influence(measured.mean(cell))[0])
    return measured.items.estimate(measured.image_part[best]).p_above() > LEVEL


Group = tuple[Any, Any, dict[str, Any], list[Pair]]
"""First and second value of a claim, the axes that its cells share, and its pairs of cells."""


def _groups(grid: Grid, known: dict[str, Any]) -> Iterator[Group]:
    """Yield the cells of every claim of a hypothesis."""
    axis = known["axis"]
    cells = [cell for cell in grid.planned if axis in cell.axes
             and _is_kept(grid, known.get("only_if", {}), cell)]  # fmt: skip
    if "minus" in known:
        ((other, wanted),) = known["minus"].items()
        cells = [cell for cell in cells if cell.axes.get(other, wanted) != wanted]
    values = list(dict.fromkeys(cell.axes[axis] for cell in cells))
    first = values[0] if values and known["first"] == "first" else known["first"]
    starts = [cell for cell in cells if cell.axes[axis] == first
              and _is_kept(grid, known.get("first_if", {}), cell)]  # fmt: skip
    if not starts:
        return
    apart = (axis, *known.get("along", []))
    seconds = [value for value in values if value != first]
    if known["second"] in (_BEFORE, *_BASELINES, _BEST):
        seconds = [known["second"]]
    elif known["second"] != _OTHERS:
        seconds = [value for value in seconds if value == known["second"]]
    for second in seconds:
        pairs: dict[str, tuple[dict[str, Any], list[Pair]]] = {}
        for cell in starts:
            found: list[Setting | None] = [None]
            if second == _BEST:
                found = [one for one in cells if one != cell
                         and one.without(*apart) == cell.without(*apart)]  # fmt: skip
                if len(found) < _MIN_SHARES - 1:
                    continue
            elif second not in (_BEFORE, *_BASELINES):
                found = [one for one in cells if one.axes[axis] == second
                         and _is_kept(grid, known.get("second_if", {}), one)
                         and one.without(*apart) == cell.without(*apart)]  # fmt: skip
            group = cell.without(*apart, *known.get("pool", []))
            rows = pairs.setdefault(str(group), (group, []))[1]
            rows.extend((cell, one) for one in found)
        yield from ((first, second, group, rows) for group, rows in pairs.values() if rows)


def _is_kept(grid: Grid, conditions: dict[str, Any], cell: Setting) -> bool:
    """Return whether a cell fulfils conditions of a hypothesis."""
    known = {**grid.record.get("common", {}), **grid.fields[cell], **cell.axes}
    for path, wanted in conditions.items():
        value = known.get(path)
        if value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def _name_group(grid: Grid, group: dict[str, Any]) -> list[str]:
    shown = [name for name in group if name in grid.varying and name != BASE_SAMPLES]
    return [name_axis(name, group[name]) for name in shown]


def _margin(grid: Grid, known: dict[str, Any], measured: Measured) -> float:
    is_bits = measured.factor == 1
    own_margin = known.get("bits_margin" if is_bits else "margin")
    return float(own_margin or (0.0 if is_bits else grid.hypotheses["margin"]))


def _fill(known: dict[str, Any], first: Any, second: Any) -> str:
    names = (name_value(known["axis"], first), name_value(known["axis"], second)
             if second not in (_BEST, _BEFORE, *_BASELINES) else str(second))  # fmt: skip
    text: str = known["text"].format(first=names[0], second=names[1])
    return text


def _decide(claim: Expected) -> Expected:
    """Estimate the difference of a claim, less the lower limit of the claim."""
    measured = claim.measured
    cells = dict.fromkeys(cell for pair in claim.pairs for cell in pair if cell is not None)
    # A claim against a baseline is about whether the cell exceeds it.
    claim.silent = [] if measured.before else [c for c in cells if measured.shows_nothing(c)]
    claim.kept = list(claim.pairs)
    if not claim.is_best and len(claim.pairs) > 1:
        claim.kept = [pair for pair in claim.pairs if not set(pair) & set(claim.silent)]
    if not claim.is_best:
        claim.kept = [pair for pair in claim.kept
                      if not any({(cell, at) for cell in pair} <= measured.empty
                                 for at in (0, 1))]  # fmt: skip
    if not claim.kept:
        return claim
    spread = own.training_spread(list(measured.values.values()), measured.items)
    for group in [[pair] for pair in claim.kept] if claim.is_best else [claim.kept]:
        gap = np.mean([measured.gap(pair) for pair in group], axis=0)
        limit = np.full(len(gap), 0.0 if claim.test == "superiority" else claim.margin)
        if claim.relative is not None:
            second = [measured.image_part[b] for _, b in group if b is not None]
            limit = claim.relative * np.mean(second, axis=0)
        if len(measured.items.coefficients) > 1 and claim.relative is None:
            estimate = measured.items.estimate(gap)
            shifted = own.Estimate(estimate.value + float(limit[0]), estimate.se, estimate.df)
        else:
            shifted = measured.items.estimate(gap + limit)
        claim.differences.append(measured.items.estimate(gap))
        claim.models.append(shifted)
        error = max(shifted.se, measured.items.cautious(gap).se)
        claim.cautious.append(own.Estimate(shifted.value, error, shifted.df))
        if spread is not None:
            weights = _squared_weights(claim, group)
            claim.recipes.append(own.recipe_estimate(shifted, spread, weights))
    return claim


def _squared_weights(claim: Expected, group: list[Pair]) -> float:
    """Return squared weights of trainings, with the least favourable correlation of seeds."""
    total: dict[Setting, float] = {}
    trainings = {cell: len(rows) for cell, rows in claim.measured.values.items()}
    for first, second in group:
        total[first] = total.get(first, 0.0) + 1 / len(group)
        if second is not None:
            total[second] = total.get(second, 0.0) - 1 / len(group)
    per_seed = np.zeros(max(trainings.values()))
    for cell, weight in total.items():
        per_seed[: trainings[cell]] += weight / trainings[cell]
    apart = sum(weight**2 / trainings[cell] for cell, weight in total.items())
    return max(apart, float((per_seed**2).sum()))


def _p_values(claim: Expected, found: list[own.Estimate]) -> tuple[float, float]:
    """Return the p-values of support and refutation, not corrected for the number of claims."""
    if claim.is_best:
        refuted = min(1.0, len(found) * min(one.p_below() for one in found))
        return max(one.p_above() for one in found), refuted
    lower = found[0]
    if claim.test != "equivalence":
        return lower.p_above(), lower.p_below()
    upper = own.Estimate(lower.value - 2 * claim.margin, lower.se, lower.df)
    return max(lower.p_above(), upper.p_below()), min(lower.p_below(), upper.p_above())


def _verdict(claim: Expected, supported: float, refuted: float, disagreement: float | None) -> str:
    verdict = "undecided"
    if min(supported, refuted) <= LEVEL:
        verdict = "supported" if supported <= refuted else "refuted"
    if disagreement is not None and disagreement <= LEVEL and verdict != "undecided":
        limit = -(0.0 if claim.test == "superiority" else claim.margin)
        parts = [_part(claim, pair) for pair in claim.kept]
        true = [p > limit and (claim.test != "equivalence" or p < -limit) for p in parts]
        if any(one is not (verdict == "supported") for one in true):
            return "undecided"
    cells = {cell for pair in claim.pairs for cell in pair if cell is not None}
    if cells <= set(claim.silent):
        return "undecided"
    decisive = claim.pairs[0][0 if claim.is_best or claim.test == "superiority" else 1]
    is_single = claim.is_best or len(claim.pairs) == 1
    if verdict == "supported" and is_single and decisive in claim.silent:
        return "undecided"
    return verdict


def _part(claim: Expected, pair: Pair) -> float:
    measured = claim.measured
    return measured.items.influence(measured.gap(pair))[0]


def _check_row(grid: Grid, checks: Checks, claim: Expected, row: list[Cell], number: int) -> None:
    text = row[0].text
    name = f"claim “{', '.join(claim.words)}”"
    checks.same(f"{name} text", [w for w in claim.words if w not in text], [])
    lines = [line.strip() for line in row[3].text.split("\n") if line.strip()]
    factor, rounding = claim.measured.factor, claim.measured.rounding
    gaps = [factor * one.value for one in claim.differences]
    checks.number(f"{name} difference", numbers(lines[0])[0], min(gaps), rounding)
    unit = "bits per byte" if factor == 1 else "points"
    checks.same(f"{name} unit", lines[0].split(maxsplit=1)[1], unit)
    checks.same(f"{name} evidence", "images" in row[5].text if factor == 1 else 0, 0)
    confidence = 1 - 2 * LEVEL / number
    ends = numbers(lines[1])
    bounds = [one.bounds(confidence) for one in claim.differences]
    highs = [one.bounds(1 - 2 * LEVEL / number / len(bounds))[1] for one in claim.differences]
    low, high = factor * min(one[0] for one in bounds), factor * min(highs)
    slack = (0.25 if claim.is_best else 0.1) * (high - low) + rounding
    checks.number(f"{name} confidence", ends[2], 100 * confidence, 0.051)
    checks.number(f"{name} low", ends[0], low, slack)
    checks.number(f"{name} high", ends[1], high, slack)
    supported, refuted = (min(1.0, number * p) for p in _p_values(claim, claim.models))
    careful = tuple(min(1.0, number * p) for p in _p_values(claim, claim.cautious))
    # A p-value of two tails is at least two resamples, times the number of claims.
    checks.p_value(f"{name} p", numbers(row[4].text)[0], min(supported, refuted), min(careful),
                   resolution=2 * number / own.RESAMPLES)  # fmt: skip
    disagreement = _check_parts(grid, checks, name, claim, text)
    clear = all(not 0.03 < p < 0.08 for p in (supported, refuted))
    if clear:
        # Where few values differ, a report that allows for further changes is right as well.
        pairs = ((supported, refuted), careful)
        verdicts = [_verdict(claim, *pair, disagreement) for pair in pairs]
        printed = row[1].text.split()[0]
        checks.same(f"{name} models", printed, printed if printed in verdicts else verdicts[0])
    own_p = (1.0, 1.0)
    if claim.recipes:
        found = _p_values(claim, claim.recipes)
        own_p = max(number * found[0], supported), max(number * found[1], refuted)
    if all(not 0.025 < p < 0.1 for p in own_p):
        verdict = _verdict(claim, *own_p, disagreement)
        checks.same(f"{name} recipe", row[2].text.split()[0], verdict)
    _check_recipe_interval(checks, name, claim, row[2].text, confidence)


def _check_recipe_interval(
    checks: Checks, name: str, claim: Expected, text: str, confidence: float
) -> None:
    """Check a printed interval of the recipe: its ends within 15 % of the width."""
    found = re.search(r"([-+][\d.]+) to ([-+][\d.]+)", text)
    if found is None or not claim.recipes or claim.is_best:
        return
    shift = claim.differences[0].value - claim.models[0].value
    scale = claim.measured
    # The interval of a recipe is never narrower than that of its models.
    lows, highs = zip(*(one.bounds(confidence) for one in (claim.recipes[0], claim.models[0])),
                      strict=True)  # fmt: skip
    low, high = (scale.factor * (end + shift) for end in (min(lows), max(highs)))
    slack = 0.15 * (high - low) + scale.rounding
    for which, printed, end in (("low", found[1], low), ("high", found[2], high)):
        checks.number(f"{name} recipe {which}", float(printed), end, slack)


def _check_parts(grid: Grid, checks: Checks, name: str, claim: Expected, text: str) -> float | None:
    """Check the pooled pairs, the test of their equality, and the cells that were left out."""
    left_out = re.search(r"left out, because they do not exceed [^:]*: (.*)", text)
    listed = left_out[1].split(";") if left_out else []
    shown = [cell for cell in claim.silent if claim.is_best or len(claim.pairs) > 1]
    names = [grid.label(cell.axes) for cell in shown]
    checks.same(f"{name} cells that show nothing", sorted(one.strip() for one in listed),
                sorted(names))  # fmt: skip
    if claim.is_best or len(claim.kept) < 2:
        return None
    found = re.search(r"single pairs: (.*)", text)
    values = [float(v) for v in re.findall(r"([-+][\d.]+) \(", found[1])] if found else []
    parts = [claim.measured.factor * _part(claim, pair) for pair in claim.kept]
    checks.same(f"{name} number of pairs", len(values), len(parts))
    for at, (printed, part) in enumerate(zip(sorted(values), sorted(parts), strict=False)):
        checks.number(f"{name} pair {at}", printed, part, claim.measured.rounding)
    measured = claim.measured
    rows = np.array([measured.gap(pair) for pair in claim.kept])
    p = own.heterogeneity(rows, measured.items)
    printed_p = re.search(r"all pairs: p = ([\d.]+)", text)
    checks.p_value(f"{name} equal effects", float(printed_p[1]) if printed_p else 2.0, p)
    return p
