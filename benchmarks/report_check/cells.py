"""Check of the numbers of single cells: cells.csv, the tables of scores, and the image checks."""

import re
from collections.abc import Iterator

import numpy as np

from benchmarks.report_check import own_statistics as own
from benchmarks.report_check.data import (
    DEVIATE_TOLERANCE,
    Checks,
    Grid,
    Setting,
    Training,
    deviate,
    name_value,
    title_axis,
)
from benchmarks.report_check.page import Cell, Table, numbers

_SUFFIXES = {"vqa": "", "vqa_lmms": "_lmms", "vqa_aware": "_aware"}
_EXACT, _PRINTED, _LEVEL = 1e-6, 0.0501, 0.05
_ROUNDED_SHARE = 0.06
"""Difference in percent of a share that is printed with three digits."""
_KINDS = {"VQA accuracy": "vqa", "Multiple choice": "mc", "Caption verification": "capqa",
          "Replies in the language of the question": "fidelity",
          "Truncated replies": "truncated"}  # fmt: skip
_SHARES = {"fidelity": "is_in_language", "truncated": "is_truncated"}
"""Metric of all replies in a language -> the column of which it is the mean."""
_RULES = {"official": "vqa", "lmms-eval": "vqa_lmms", "language-aware": "vqa_aware"}


def check_cells(grid: Grid, checks: Checks) -> None:
    """Check every metric of every cell in cells.csv."""
    trainings = {training.cell_id: training for training in grid.trainings}
    for row in grid.table:
        training = trainings[row["cell_id"]]
        found = _metric(training, row["metric"])
        if found is None:
            continue
        values, images, rows, suffix = found
        name = f"{row['cell_id']} {row['metric']}"
        checks.number(name, _value(row["value"]), 100 * values.mean(), _EXACT)
        checks.number(f"{name} n", _value(row["n"]), len(values), 0)
        checks.number(f"{name} images", _value(row["num_images"]), len(np.unique(images)), 0)
        check_interval(checks, name, (_value(row["ci_low"]), _value(row["ci_high"])),
                        values, images)  # fmt: skip
        if rows is not None:
            _check_baselines(checks, name, row, training, rows, suffix)


def _value(text: str) -> float | None:
    return float(text) if text else None


def _is_known(values: np.ndarray) -> np.ndarray:
    """Return which replies could be in another language than their question."""
    return np.array([value is not None for value in values])


_PLAIN = {"fidelity": "is_in_language", "refusals": "is_refusal", "likelihood": "likeliest_score"}
"""Columns of metrics that are their mean."""


def _metric(  # noqa: C901 (one branch per metric)
    training: Training, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str] | None:
    """Return values, images, rows and the suffix of the score columns of a metric."""
    kind, language, *more = metric.split("/")
    columns = training.columns
    what = more[0] if more else ""
    if kind in _SHARES:
        rows = training.rows(language) & _is_known(columns[_SHARES[kind]])
        return columns[_SHARES[kind]][rows].astype(float), columns["image_key"][rows], None, ""
    suffix = _SUFFIXES.get(kind, "")
    if kind not in (*_SUFFIXES, "mc", "capqa"):
        return None
    rows = training.rows(language, "vqa" if kind in _SUFFIXES else kind)
    if what in ("other", "number", "yes_no"):
        rows &= columns["answer_type"] == what.replace("_", "/")
    elif what == "type":
        rows &= columns["question_type"] == more[1]
    score, images = columns[f"score{suffix}"], columns["image_key"]
    if what in ("accuracy", "other", "number", "yes_no", "type"):
        return score[rows], images[rows], rows, suffix
    if what == "unanimous":
        equal = np.array([float(len(set(answers)) == 1) for answers in columns["answers"]])
        return equal[rows], images[rows], None, ""
    if what == "attributable":
        return (score - columns[f"blind_score{suffix}"])[rows], images[rows], None, ""
    if what in _PLAIN:
        rows &= _is_known(columns[_PLAIN[what]])
        return columns[_PLAIN[what]][rows].astype(float), images[rows], None, ""
    if what == "unparsed":
        missing = np.array([parsed is None for parsed in columns["parsed"]], dtype=float)
        return missing[rows], images[rows], None, ""
    if what == "accuracy_in_language":
        rows &= np.array([value is not False for value in columns["is_in_language"]])
        plain = columns["score_lmms"] if kind == "vqa" else score
        return (plain[rows], images[rows], None, "") if rows.any() else None
    if what == "accuracy_any_language":
        return columns["score_any_language"][rows], images[rows], None, ""
    return None


def check_interval(
    checks: Checks,
    name: str,
    printed: tuple[float | None, float | None],
    values: np.ndarray,
    images: np.ndarray,
    rounding: float = 0.0,
) -> None:
    """Check both ends of an interval up to the noise of resampling."""
    if printed[0] is None or len(np.unique(images)) < 10:
        return
    options = own.intervals(values, images)
    for end, which in enumerate(("low", "high")):
        ends = [100 * option[end] for option in options]
        widths = [100 * (high - low) for low, high in options]
        slack = (0.035 if len(options) == 1 else 0.1) * max(widths) + 0.05 + rounding
        slack = max(slack, 100 / len(values) + 0.005)  # resamples of a proportion differ in steps
        checks.within(f"{name} {which}", printed[end], ends, slack)


def _check_baselines(
    checks: Checks,
    name: str,
    row: dict[str, str],
    training: Training,
    rows: np.ndarray,
    suffix: str,
) -> None:
    columns = training.columns
    images = columns["image_key"][rows]
    score = columns[f"score{suffix}"][rows]
    for baseline in ("majority", "blind"):
        values = columns[f"{baseline}_score{suffix}"][rows]
        checks.number(f"{name} {baseline}", _value(row[baseline]), 100 * values.mean(), _EXACT)
        printed = _value(row[f"beats_{baseline}"])
        if printed is not None:
            p = own.plain(images).test(score - values)
            checks.p_value(f"{name} beats {baseline}", printed, *p)
    chance = columns["chance_score"][rows]
    expected = None if np.isnan(chance).any() else 100 * float(chance.mean())
    checks.number(f"{name} chance", _value(row["chance"]), expected, _EXACT)


def _rows_of_table(grid: Grid, table: Table) -> Iterator[tuple[Setting, list[Cell]]]:
    """Yield every row of a table of scores with the setting that it is about.

    Rows of cells that were not evaluated have no scores and are left out.

    Raises:
        ValueError: If a row is about no setting of the grid or about several.
    """
    axes = {}
    for at, head in enumerate(table.header[1:], start=1):
        titles = (name for name in grid.varying if title_axis(name) == head)
        if (name := next(titles, None)) is not None:
            axes[at] = name
    for row in table.rows[1:]:
        share = numbers(row[0].text)[0]
        scores = [cell.text for at, cell in enumerate(row[1:], start=1) if at not in axes]
        if not "".join(scores).strip():
            continue
        found = [
            setting
            for setting in grid.settings
            if abs(100 * grid.shares[setting] - share) < _ROUNDED_SHARE
            and all(name_value(name, setting.axes.get(name)) == row[at].text.strip()
                    for at, name in axes.items())
        ]  # fmt: skip
        if len(found) != 1:
            raise ValueError(f"{len(found)} settings match the row {[c.text for c in row]}")
        yield found[0], row


def check_tables(grid: Grid, checks: Checks) -> None:
    """Check the tables of scores of the page against the means over seeds."""
    for section in ("cells", "language"):
        for table in grid.sections[section].tables:
            columns = [(head.rsplit(" ", 1), at) for at, head in enumerate(table.header)]
            metrics = {at: _page_metric(*words) for words, at in columns
                       if words[-1] in grid.languages}  # fmt: skip
            if table.header[0] != "share" or not metrics:
                continue
            for setting, row in _rows_of_table(grid, table):
                for at, metric in metrics.items():
                    if metric:
                        _check_score(grid, checks, setting, metric, row[at].text, row[at].style)


def _page_metric(title: str, language: str) -> str:
    collapse = {"replies in the language": "fidelity", "among replies in the language":
                "accuracy_in_language", "in any language": "accuracy_any_language"}  # fmt: skip
    if title in collapse:
        return f"vqa/{language}/{collapse[title]}"
    if title == "accuracy":
        return f"vqa_lmms/{language}/accuracy"
    if title in _RULES:
        return f"{_RULES[title]}/{language}/accuracy"
    kind = _KINDS.get(title, "")
    if kind in _SHARES:
        return f"{kind}/{language}"
    return f"{kind}/{language}/accuracy" if kind else ""


def _check_score(
    grid: Grid, checks: Checks, setting: Setting, metric: str, text: str, style: str
) -> None:
    """Check one cell of a table: mean over seeds, interval, deviation, unparsed, and its style."""
    trainings = grid.settings[setting]
    found = [one for one in (_metric(t, metric) for t in trainings) if one is not None]
    name = f"page {grid.label(setting.axes)}, {metric}"
    if not text.strip() or len(found) < len(trainings):
        return
    means = [100 * values.mean() for values, _, _, _ in found]
    lines = [line for line in text.split("\n") if line.strip()]
    checks.number(name, numbers(lines[0])[0], float(np.mean(means)), _PRINTED)
    is_common = len({len(values) for values, _, _, _ in found}) == 1
    if len(lines) > 1 and "unparsed" not in lines[1] and is_common and "in_lang" not in metric:
        values = np.mean([values for values, _, _, _ in found], axis=0)
        ends = numbers(lines[1].split("±")[0])
        check_interval(checks, name, (ends[0], ends[1]), values, found[0][1], _PRINTED)
    if "±" in text:
        sd = float(np.std(means, ddof=1))
        checks.number(f"{name} sd", numbers(text.split("±")[1])[0], sd, _PRINTED)
    if "unparsed" in text:
        missing = re.search(r"([\d.]+) % unparsed", " ".join(text.split()))
        parsed = [_metric(t, metric.replace("accuracy", "unparsed")) for t in trainings]
        share = 100 * float(np.mean([one[0].mean() for one in parsed if one is not None]))
        checks.number(f"{name} unparsed", float(missing[1]) if missing else None, share, 0.51)
    rows = found[0][2]
    if rows is not None:
        p = largest_p(trainings, rows, found[0][3])
        if not 0.04 < p < 0.06:
            checks.same(f"{name} shows nothing", "weak" in style, p > 0.05)


def largest_p(trainings: list[Training], rows: np.ndarray, suffix: str) -> float:
    """Return the larger p-value of the tests against the blind and the majority baseline."""
    images = trainings[0].columns["image_key"][rows]
    p_values = []
    for baseline in ("blind", "majority"):
        gaps = [t.columns[f"score{suffix}"][rows] - t.columns[f"{baseline}_score{suffix}"][rows]
                for t in trainings]  # fmt: skip
        p_values.append(max(own.plain(images).test(np.mean(gaps, axis=0))))
    return max(p_values)


def check_image_use(grid: Grid, checks: Checks) -> None:
    """Check which cells are said not to use the image, per kind, answer type and language."""
    table = grid.sections["canaries"].tables[0]
    header = table.header
    for row in table.rows[1:]:
        training = next(t for t in grid.trainings if t.cell_id == row[0].text.strip())
        stored = {(g["dataset"], g["kind"], g["answer_type"], g["language"]): g
                  for g in training.read_json("evaluate", "canaries.json")["groups"]}  # fmt: skip
        all_columns = {name: training.columns_of(name) for name in training.datasets}
        drops = {}
        for at, head in enumerate(header):
            parts = head.split(" ")
            key = tuple(parts if len(parts) > 3 else (training.datasets[0], *parts))
            if key in stored:
                columns = all_columns[key[0]]
                rows = np.all([columns[name] == value for name, value in
                               zip(("benchmark", "answer_type", "language"), key[1:], strict=True)],
                              axis=0)  # fmt: skip
                suffix = "_lmms" if key[1] == "vqa" else ""
                gap = (columns[f"score{suffix}"] - columns[f"blind_score{suffix}"])[rows]
                items = own.plain(columns["image_key"][rows])
                drops[at, key] = 100 * float(gap.mean()), items.test(gap)
        # Where few replies change, tests with and without an allowance for it may disagree.
        variants = [[choose(tests) for _, tests in drops.values()] for choose in (min, max)]
        corrected = [own.holm(p_values) for p_values in variants]
        verdicts = []
        for number, ((at, key), (drop, _)) in enumerate(drops.items()):
            name = f"image use {training.cell_id} {' '.join(key)}"
            checks.number(name, numbers(row[at].text)[0], drop, _PRINTED)
            shuffled = stored[key]["shuffled"]
            is_wrong = shuffled is not None and shuffled["value"] <= 0
            pairs = [(raw[number], p[number]) for raw, p in zip(variants, corrected, strict=True)]
            options = [_conclude(*pair, is_wrong=is_wrong) for pair in pairs]
            printed = row[at].title.split(";")[0]
            verdicts.append(printed)
            is_between = _is_between(printed, options)
            known = printed if is_between or _is_close(pairs) else options[1]
            checks.same(f"{name} verdict", printed, known)
            checks.same(f"{name} stored", stored[key]["verdict"], printed)
        changed = training.read_json("evaluate", "canaries.json")["num_changed"]
        checks.same(f"image use {training.cell_id}", row[-1].text.strip(),
                    _summarise(verdicts, changed))  # fmt: skip


def _summarise(verdicts: list[str], changed: int) -> str:
    """Return the conclusion about one evaluation."""
    tested = [verdict for verdict in verdicts if verdict != "too few images"]
    used = tested.count("uses the image")
    if changed:
        return "replies depend on the batch"
    if not tested:
        return "too few images"
    return f"image used in {used} of {len(tested)} groups" if used else "no use of the image shown"


def _conclude(raw: float, corrected: float, *, is_wrong: bool) -> str:
    if raw > _LEVEL:
        return "does not use the image"
    return "undecided" if corrected > _LEVEL or is_wrong else "uses the image"


def _is_between(printed: str, options: list[str]) -> bool:
    """Return whether a verdict is one of those of the two tests, or lies between them."""
    order = ("does not use the image", "undecided", "uses the image")
    if printed not in order:
        return printed in options
    ranks = [order.index(option) for option in options]
    return min(ranks) <= order.index(printed) <= max(ranks)


def _is_close(pairs: list[tuple[float, float]]) -> bool:
    """Return whether a p-value is so close to the level that the choice of the test decides."""
    level = deviate(_LEVEL)
    known = [min(max(p, 1e-9), 1 - 1e-9) for pair in pairs for p in pair]
    return any(abs(deviate(p) - level) <= DEVIATE_TOLERANCE for p in known)
