"""Check of the sentences of a report: registration, summary, sufficient shares and limitations."""

import re
from datetime import datetime

import numpy as np

from benchmarks.report_check import own_statistics as own
from benchmarks.report_check.cells import check_interval, largest_p
from benchmarks.report_check.data import AMOUNTS, SHARE, Checks, Grid, Setting
from benchmarks.report_check.page import numbers

_PRINTED, _MARGIN, _LEVEL = 0.0501, 0.03, 0.05


def check_registration(grid: Grid, checks: Checks) -> None:
    """Check from hashes and times whether the claims may be called pre-registered."""
    stamp = grid.record.get("registration") or {}
    reasons = []
    if stamp.get("sha256") != grid.hypotheses_hash:
        reasons.append("the hypotheses were changed or not registered")
    registered = datetime.fromisoformat(stamp["time_utc"]).timestamp() if stamp else np.inf
    for training in grid.trainings:
        folder = training.result("evaluate").parent
        status = training.read_json("evaluate", "../status.json")
        if status["started"] < registered:
            reasons.append(f"{training.cell_id} was evaluated before the registration")
        if stamp not in training.read_json("evaluate", "../stage.json").get("registrations", []):
            reasons.append(f"{folder.name} has no record of the registration")
    words = " ".join(grid.sections["head"].texts)
    claimed = " ".join(grid.sections["claims"].texts)
    is_confirmatory = not reasons
    checks.same("headline calls the claims exploratory", "exploratory" in words,
                not is_confirmatory)  # fmt: skip
    checks.same("section says registered before the first evaluation",
                "before the first evaluation started" in claimed, is_confirmatory)  # fmt: skip
    if is_confirmatory:
        checks.same("hash on the page", "" if grid.hypotheses_hash[:16] in claimed else claimed, "")
        time = datetime.fromisoformat(stamp["time_utc"]).strftime("%Y-%m-%d %H:%M:%S UTC")
        checks.same("time on the page", "" if time in claimed else claimed, "")


def _mean(grid: Grid, setting: Setting, language: str, column: str = "score") -> float:
    """Return the accuracy on open questions in percent, averaged over seeds."""
    column = grid.score_column.replace("score", column)
    found = [t.columns[column][t.rows(language, "vqa")].mean() for t in grid.settings[setting]]
    return 100 * float(np.mean(found))


def check_summary(grid: Grid, checks: Checks) -> None:
    """Check every number of the opening, and of the sentences below the figures."""
    head = grid.sections["head"].texts
    shown = " ".join(grid.sections["figures"].texts)
    target = grid.languages[0]
    scores = {setting: _mean(grid, setting, target) for setting in grid.settings}
    top = max(scores, key=lambda one: scores[one])
    lead = next((text for text in head if text.startswith("On questions")), "")
    if lead:
        _check_curve(grid, checks, f"{lead} {shown}", scores, top)
    else:
        lead = next(text for text in head if "accuracy on open questions" in text)
        _check_list(checks, lead, scores)
    for what, pattern in (("majority_score", r"majority-answer baseline reaches ([\d.]+) %"),
                          ("blind_score", r"reaches ([\d.]+) % without the image")):  # fmt: skip
        checks.number(f"summary: {what}", _take(lead, pattern)[0], _mean(grid, top, target, what),
                      _PRINTED)  # fmt: skip
    _check_effects(grid, checks, shown, scores)
    _check_counts(grid, checks, lead)


def _take(lead: str, pattern: str) -> list[float]:
    found = re.search(pattern, lead)
    return [float(group) for group in found.groups() if group] if found else [-1.0] * 9


def _check_curve(
    grid: Grid, checks: Checks, lead: str, scores: dict[Setting, float], top: Setting
) -> None:
    """Check the sentences about a grid with several shares."""
    target, base = grid.languages
    found = _take(lead, r"highest of (\d+) observed accuracies on open questions is ([\d.]+) %")
    checks.number("summary: number of accuracies", found[0], len(scores), 0)
    checks.number("summary: highest accuracy", found[1], scores[top], _PRINTED)
    rest = top.without(*AMOUNTS)
    line = {grid.shares[one]: one for one in scores if one.without(*AMOUNTS) == rest}
    checks.number("summary: its share", _take(lead, r"target-language share of (\d+) %")[0],
                  100 * grid.shares[top], 0)  # fmt: skip
    label = grid.label(rest)
    checks.same("summary: its setting", label if f"({label})" in lead else "", label)
    reference = line.get(0.2)
    if reference not in (None, top):
        found = _take(lead, r"share of 20 % reaches ([\d.]+) % \[([\d.]+), ([\d.]+)\]")
        checks.number("summary: accuracy at 20 %", found[0], scores[reference], _PRINTED)
        trainings = grid.settings[reference]
        rows = trainings[0].rows(target, "vqa")
        values = np.mean([t.columns[grid.score_column][rows] for t in trainings], axis=0)
        images = trainings[0].columns["image_key"][rows]
        check_interval(checks, "summary: interval at 20 %", (found[1], found[2]), values, images,
                       _PRINTED)  # fmt: skip
        if 0.0 in line:
            zero = _take(lead, r"compared with ([\d.]+) % at a share of zero")[0]
            checks.number("summary: accuracy at 0 %", zero, scores[line[0.0]], _PRINTED)
    found = _take(lead, r"changes from ([\d.]+) % at a share of [\d.]+ % to ([\d.]+) %")
    for printed, share in zip(found, (min(line), max(line)), strict=False):
        own = _mean(grid, line[share], base)
        checks.number(f"summary: {base} at {share:.0%}", printed, own, _PRINTED)
    _check_replies(grid, checks, lead, line[max(line)], (base, "There"))
    if reference not in (None, top) and 0.0 in line:
        _check_replies(grid, checks, lead, line[0.0], (target, "At a share of zero"))


def _check_list(checks: Checks, lead: str, scores: dict[Setting, float]) -> None:
    """Check the accuracies that are listed one by one, or the lowest and the highest."""
    first = lead.split("%.")[0].split(". In ")[0]
    found = [float(number) for number in re.findall(r"([\d.]+) % \[", first)]
    own = list(scores.values())
    if " ranges from " in first:
        own = [min(own), max(own)]
    checks.number("summary: number of accuracies", len(found), len(own), 0)
    for printed, value in zip(sorted(found), sorted(own), strict=False):
        checks.number("summary: accuracy", printed, value, _PRINTED)


def _check_effects(grid: Grid, checks: Checks, lead: str, scores: dict[Setting, float]) -> None:
    """Check the effect of every axis, averaged over pairs of cells that show something."""
    rows = grid.trainings[0].rows(grid.languages[0], "vqa")
    suffix = grid.score_column.removeprefix("score")
    seeing = {s for s, found in grid.settings.items() if largest_p(found, rows, suffix) <= _LEVEL}
    own = []
    for axis in sorted(grid.varying - set(AMOUNTS)):
        values = list(dict.fromkeys(setting.axes.get(axis) for setting in grid.settings))
        for value in values[1:]:
            pairs = [
                (a, b)
                for a in seeing
                for b in seeing
                if (a.axes.get(axis), b.axes.get(axis)) == (values[0], value)
                and grid.shares[a] == grid.shares[b]
                and a.without(axis, *AMOUNTS) == b.without(axis, *AMOUNTS)
            ]
            effects = [scores[b] - scores[a] for a, b in pairs]
            if len(effects) > 1:
                own.append((np.mean(effects), min(effects), max(effects), len(effects)))
    number = r"([-+][\d.]+)"
    spread = rf"smallest {number}, largest {number} of (\d+) pairs"
    pattern = rf"by {number} points on average \({spread}"
    found = sorted(tuple(map(float, groups)) for groups in re.findall(pattern, lead))
    checks.same("summary: number of effects", len(found), len(own))
    for printed, values in zip(found, sorted(own), strict=False):
        for name, one, value in zip(("mean", "lowest", "highest", "pairs of the"),
                                    printed, values, strict=True):  # fmt: skip
            checks.number(f"summary: {name} effect", one, float(value), _PRINTED)


def _check_replies(
    grid: Grid, checks: Checks, lead: str, setting: Setting, place: tuple[str, str]
) -> None:
    """Check the sentence about replies in another language, given its language and beginning."""
    language, start = place
    faithful, either = (
        100 * float(np.mean([np.nanmean(t.columns[name][t.rows(language, kind)].astype(float))
                             for t in grid.settings[setting]]))
        for name, kind in (("is_in_language", ""), ("score_any_language", "vqa"))
    )  # fmt: skip
    found = re.search(rf"{start}, only ([\d.]+) % of the replies are in {language}", lead)
    name = f"summary: {start.lower()}"
    checks.same(f"{name} replies change language", found is not None, faithful < 90)
    if found:
        checks.number(f"{name} replies in the language", float(found[1]), faithful, _PRINTED)
        rest = lead[found.end() :]
        either_text = re.search(r"in any language, the accuracy is ([\d.]+) %", rest)
        checks.number(f"{name} accuracy in any language",
                      float(either_text[1]) if either_text else None, either, _PRINTED)  # fmt: skip


def _check_counts(grid: Grid, checks: Checks, lead: str) -> None:
    """Check the decided claims of the summary against the table of claims."""
    rows = grid.sections["claims"].tables[0].rows[1:]
    has_seeds = any(len(trainings) > 1 for trainings in grid.settings.values())
    column = 2 if has_seeds else 1
    verdicts = {" ".join(row[0].text.split("\n")[0].split()): row[column].text.split()[0]
                for row in rows}  # fmt: skip
    decided = {text: v for text, v in verdicts.items() if v in ("supported", "refuted")}
    named = {}
    for item in grid.sections["head"].texts:
        found = re.fullmatch(r"(supported|refuted) (.*?)( \(for these trained models.*\))?", item)
        if found:
            start, _, cases = found[2].partition(": ")
            whole = [f"{start}, {case}" for case in cases.split("; ")]
            # A colon may also be part of a claim.
            is_group = all(text in verdicts for text in whole)
            named |= dict.fromkeys(whole if is_group else [found[2]], found[1])
    checks.same("summary: decided claims", named, decided)
    numbers = {word: sum(v == word for v in decided.values()) for word in ("supported", "refuted")}
    found = re.search(
        r"Of the (\d+) [\w-]+ claims, (\d+) are supported, (\d+) refuted and (\d+) ", lead
    )
    own_numbers = (len(rows), *numbers.values(), len(rows) - len(decided))
    if found:
        for name, printed, number in zip(("all", "supported", "refuted", "undecided"),
                                         found.groups(), own_numbers, strict=True):  # fmt: skip
            checks.number(f"summary: {name} claims", float(printed), number, 0)
    else:
        checks.same("summary: numbers of claims", "claims is decided" in lead, not decided)
    texts = grid.sections["canaries"].texts
    for text in texts:
        found = re.match(
            r"(\d+) of (\d+) cells do(?:es)? not use the image for (\S+) (\S+) questions in (\w+)"
            r"(?: of (\S+))?\.",
            text,
        )
        if found:
            key = (found[3], found[4], found[5])
            own_number = sum(
                any((g["kind"], g["answer_type"], g["language"]) == key
                    and found[6] in (None, g["dataset"])
                    and g["verdict"] == "does not use the image" for g in
                    t.read_json("evaluate", "canaries.json")["groups"]) for t in grid.trainings
            )  # fmt: skip
            checks.number(f"sentence: {' '.join(key)} without the image", float(found[1]),
                          own_number, 0)  # fmt: skip


def check_shares(grid: Grid, checks: Checks) -> None:
    """Check the tables of sufficient shares and their sentences."""
    target = grid.languages[0]
    section = grid.sections.get("sufficiency")
    for table in section.tables if section is not None else []:
        settings = [one for one in grid.settings if one.share is not None
                    and grid.label(one.without(SHARE)) in ("", table.heading)]  # fmt: skip
        trainings = {one: grid.settings[one] for one in sorted(settings, key=lambda s: s[0] or 0)}
        first = next(iter(trainings.values()))[0]
        rows = first.rows(target, "vqa")
        items = own.plain(first.columns["image_key"][rows])
        values = {s[0]: np.mean([t.columns[grid.score_column][rows] for t in found], axis=0)
                  for s, found in trainings.items()}  # fmt: skip
        within = {}
        for row in table.rows[1:]:
            share = numbers(row[0].text)[0] / 100
            name = f"sufficiency {table.heading}, {share:.0%}"
            accuracy = numbers(row[1].text)
            checks.number(f"{name} accuracy", accuracy[0], 100 * values[share].mean(), _PRINTED)
            check_interval(checks, name, (accuracy[1], accuracy[2]), values[share], items.images,
                           _PRINTED)  # fmt: skip
            gaps = [items.estimate(values[share] - other) for key, other in values.items()
                    if key != share]  # fmt: skip
            within[share] = max(gap.p_above(-_MARGIN) for gap in gaps)
            checks.p_value(f"{name} within", numbers(row[2].text)[0], within[share])
            p_outside = min(1.0, len(gaps) * min(gap.p_below(-_MARGIN) for gap in gaps))
            printed = numbers(row[3].text)[0]
            name = f"{name} not within, verdict"
            if not 0.02 < p_outside < 0.12:
                checks.same(name, printed <= 0.05, p_outside <= 0.05)
        _check_set(grid, checks, table.heading, within)


def _check_set(grid: Grid, checks: Checks, heading: str, within: dict[float, float]) -> None:
    """Check the sentence that names the shares within the margin of the best."""
    texts = grid.sections["sufficiency"].texts
    start = texts.index(heading)
    sentence = next(text for text in texts[start:]
                    if text.startswith(("With 95 %", "No share", "Nothing can")))  # fmt: skip
    corrected = dict(zip(within, own.holm(list(within.values())), strict=True))
    certain = {share for share, p in corrected.items() if p < 0.04}
    possible = {share for share, p in within.items() if p < 0.06}
    first = sentence.split(". ")[0]
    named = set() if first.startswith("No share") else {
        float(number) / 100 for number in re.findall(r"(\d+) %", first.split("of the best")[-1])
    }  # fmt: skip
    name = f"sufficiency {heading}: named shares"
    checks.same(f"{name} include the certain ones", sorted(certain - named), [])
    checks.same(f"{name} include no others", sorted(named - possible), [])
