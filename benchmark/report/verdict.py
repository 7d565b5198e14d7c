"""What a run says of a model in plain words, and how far that goes; ``docs/figures_and_reports.md`` states the rules.

Sentences follow from the rows alone. They never call a model robust: attacks can show that it breaks, and no number
of them that it does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..metrics.statistics import LEAST_UNITS
from ..records.states import PASSED, UNCHECKED, WARNED
from ..show.page.flags import explain, meaning
from .evidence import SEEN_DB, Evidence, Row

NOTHING = 0.01
"""Of Dice: a smaller change is called none."""

PLAUSIBLE = 0.5
"""Clean mean Dice below which a drop says nothing."""

SAME_SIZE = 0.9
"""Noise counts as being of an attack's size from this share of the attack's measured L2 on."""

EXPLAINS = 0.5
"""Share of the drop from which noise is said to do most of the harm."""

UNTRAINED = "untrained"
_NAMED = 5  # organs that a sentence lists


class Tone(StrEnum):
    """What a headline comes to; the page colors by it."""

    NONE = "no answer"
    BREAKS = "breaks"
    MUCH = "hurt badly"
    SOME = "hurt"
    LITTLE = "little harm found"


SHARES = ((0.5, Tone.BREAKS, "breaks"), (0.2, Tone.MUCH, "is hurt badly"), (0.05, Tone.SOME, "is hurt"))
"""Share of its clean Dice that a model loses, and what that is called."""


@dataclass(frozen=True)
class Verdict:
    """What is said of one model.

    Attributes:
        model: its name.
        tone: what the headline comes to.
        headline: one or two sentences.
        points: what belongs to it, by a word that says what it is about.
    """

    model: str
    tone: Tone
    headline: str
    points: tuple[tuple[str, str], ...]


def judge(found: Evidence) -> Verdict:
    """The verdict on one model.

    Example:
        >>> rows = (
        ...     Row(attack="pgd", label="pgd 8/255", surrogate="unet", clean=0.8, dice=0.3,
        ...         by_case={"a": 0.2, "b": 0.4}, patients=2),
        ... )
        >>> judge(Evidence(model="unet", rows=rows, patients=2)).headline
        'unet breaks: mean Dice falls from 0.800 to 0.300 under pgd 8/255, the only attack tried.'
    """
    reason = _no_answer(found)
    worst = _strongest(found)
    if reason or worst is None:
        points = [*_missing(found), *_checks(found), *_flags(found), *_organs(found), *_limits(found)]
        return Verdict(found.model, Tone.NONE, reason, tuple(points))
    tone, headline = _headline(found, worst)
    points = [
        *_interval(worst),
        *_distance(worst),
        *_noise(found, worst),
        *_organs(found),
        *_per_case(found, worst),
        *_seen(found),
        *_transfer(found),
        *_missing(found),
        *_checks(found),
        *_flags(found),
        *_limits(found),
    ]
    return Verdict(found.model, tone, headline, tuple(points))


def _strongest(found: Evidence) -> Row | None:
    """The attack with the lowest mean Dice; the first of the table where several have it."""
    return min(found.attacks, key=lambda row: row.dice, default=None)


def _no_answer(found: Evidence) -> str:
    """Why nothing can be said, or nothing."""
    worst = _strongest(found)
    if worst is None:
        if found.seen:
            return (
                "No answer: every attack tried changes the volume so much that anybody would see it "
                f"(PSNR below {SEEN_DB:.0f} dB), and any network breaks under that."
            )
        if found.controls:
            return "No answer yet: only random noise was tried, and noise is no attack."
        return "No answer: no attacked volume has a score."
    if any(UNTRAINED in row.flags for row in found.rows):
        return f"No answer: the weights of {found.model} are random, so its numbers test the pipeline and nothing else."
    if any("C0" in row.broken for row in found.rows):
        return (
            f"No answer: {found.model} fails check C0, its clean Dice is not that of a network that learned this task, "
            "and what an attack takes from it says nothing."
        )
    if math.isnan(worst.clean):
        return "No answer yet: the clean Dice of some attacked case is not known, so there is nothing to compare with."
    if worst.clean < PLAUSIBLE:
        return (
            f"No answer: the clean Dice of {found.model} is {worst.clean:.3f}, below {PLAUSIBLE}. A network that does not do "
            "its task on these volumes cannot be judged by what an attack takes from it. Look at labels, intensity window, "
            "orientation and spacing first."
        )
    return ""


def _headline(found: Evidence, worst: Row) -> tuple[Tone, str]:
    model, change = found.model, f"mean Dice {_moves(worst)} from {worst.clean:.3f} to {worst.dice:.3f}"
    under = f"under {_named(found, worst)}"
    if not found.white_box:
        under += ", on volumes made against other networks"
    share = worst.drop / worst.clean
    shaky = (
        f" Its row failed {listed(worst.broken)}: read the checks before this number." if worst.broken else ""
    )
    for least, tone, word in SHARES:
        if share >= least:
            return tone, f"{model} {word}: {change} {under}.{shaky}"
    if worst.drop < NOTHING:
        said = f"No harm was found: {change} {under}. An attack that does nothing speaks as much of the attack as of {model}."
    else:
        said = f"{model} loses little to what was tried: {change} {under}."
    return Tone.LITTLE, f"{said} That is no proof that it holds out.{shaky}"


def _moves(row: Row) -> str:
    return "rises" if row.drop < 0 else "falls"


def _named(found: Evidence, worst: Row) -> str:
    """The strongest attack, those that are as strong to three digits, and among how many."""
    alike = [row.label for row in found.attacks if f"{row.dice:.3f}" == f"{worst.dice:.3f}"]
    names = listed([worst.label, *(label for label in dict.fromkeys(alike) if label != worst.label)])
    number = len(found.attacks)
    if number == 1:
        return f"{names}, the only attack tried"
    return f"{names}, the strongest of {number} attacks tried"


def _interval(row: Row) -> Iterator[tuple[str, str]]:
    """How sure the mean is, and how far the cases lie apart."""
    cases = f"{row.cases} case{_s(row.cases)}"
    whom = cases if row.patients == row.cases else f"{cases} of {row.patients} patient{_s(row.patients)}"
    if math.isnan(row.low):
        said = f"No interval: {whom}, and it takes {LEAST_UNITS} patients to give one. As many others may give another mean."
    else:
        said = f"95% interval of the attacked mean: {row.low:.3f} to {row.high:.3f} ({whom}, patients resampled)."
    low, high = min(row.by_case, key=_by(row)), max(row.by_case, key=_by(row))
    if row.cases > 1 and f"{row.by_case[low]:.3f}" == f"{row.by_case[high]:.3f}":
        said += f" All cases have {row.by_case[low]:.3f}."
    elif row.cases > 1:
        said += f" Cases lie between {row.by_case[low]:.3f} ({low}) and {row.by_case[high]:.3f} ({high})."
    yield "How sure", said


def _distance(row: Row) -> Iterator[tuple[str, str]]:
    if math.isnan(row.hd95_clean) or math.isnan(row.hd95):
        return
    said = f"HD95 goes from {row.hd95_clean:.1f} to {row.hd95:.1f} {row.unit}"
    if row.missing:
        counts = "is left out of it" if row.drops_lost else "counts the volume's diagonal"
        said += f"; {row.missing} time{_s(row.missing)} an organ is gone, which {counts}"
    yield "Surfaces", f"{said}."


def _noise(found: Evidence, worst: Row) -> Iterator[tuple[str, str]]:
    """How much of the drop random noise of the same size explains, over the cases that both have."""
    known = [row for row in found.controls if _shared(row, worst)]
    if not known:
        yield (
            "Random noise",
            "Not tried, so nobody knows how much of this any disturbance of the size would do. "
            "--attack gn:std=8/255 adds it.",
        )
        return
    large = [row for row in known if row.l2 >= SAME_SIZE * worst.l2]
    noise = min(large, key=lambda row: row.dice) if large else max(known, key=lambda row: row.l2)
    shared = _shared(noise, worst)
    clean, noisy, attacked = (
        math.fsum(values[case] for case in shared) / len(shared)
        for values in (worst.clean_by_case, noise.by_case, worst.by_case)
    )
    size = f"{noise.label}, L2 {noise.l2:.3g} beside {worst.l2:.3g}"
    cost = f"costs {clean - noisy:.3f} of Dice" if clean - noisy >= 0.0005 else "costs nothing"
    if not large:
        yield (
            "Random noise",
            f"What was tried is smaller ({size}) and {cost}; it says less than noise of the same size.",
        )
        return
    said = f"Of the same size ({size}) it {cost}"
    drop = clean - attacked
    if drop < NOTHING:
        yield "Random noise", f"{said}; there is no drop to explain."
        return
    share = max((clean - noisy) / drop, 0.0)
    if share >= 1:
        said += ": no less than the attack, so nothing here is the attack's doing."
    elif share < 0.01:
        said += ": the harm is the attack's doing."
    elif share >= EXPLAINS:
        said += f", {share:.0%} of the drop: most of the harm is done by any disturbance of this size."
    else:
        said += f", {share:.0%} of the drop: the rest is the attack's doing."
    yield "Random noise", said


def _shared(noise: Row, attack: Row) -> list[str]:
    """Cases with a clean, a noisy and an attacked Dice."""
    return [case for case in attack.clean_by_case if case in noise.by_case]


def _organs(found: Evidence) -> Iterator[tuple[str, str]]:
    """Which organs are lost, in how many cases, and what none lost allows to say."""
    known = [organ for organ in found.organs if organ.cases]
    lost = sorted((o for o in known if o.lost), key=lambda o: (-o.lost / o.cases, o.class_id))
    if lost:
        names = [f"{organ.name} in {organ.lost} of {_cases(organ.cases)}" for organ in lost]
        said = f"Lost, with a Dice below half of what it was before: {listed(names, _NAMED)}."
        gone = [organ for organ in lost if organ.gone]
        if gone:
            said += f" Not one voxel is left of {listed([f'{o.name} in {o.case}' for o in gone], _NAMED)}."
        yield "Organs", said
    elif known:
        kept = f"No organ lost half of its Dice in any of {_cases(max(o.cases for o in known))}."
        yield "Organs", f"{kept} {_none_among(found.patients)}"
    invented = max((row.invented for row in found.attacks), default=0)
    if invented:
        yield (
            "Invented organs",
            f"Up to {invented} under one attack that the reference does not have; each counts as Dice 0.",
        )
    unfound = [f"{organ.name} in {_cases(organ.unfound)}" for organ in found.organs if organ.unfound]
    if unfound:
        yield "Before any attack", f"Not found on the clean volume: {listed(unfound, _NAMED)}."


def _none_among(patients: int) -> str:
    """What no event in so many patients leaves possible: the upper 95% bound of Clopper and Pearson."""
    if not patients:
        return ""
    bound = 1 - 0.05 ** (1 / patients)
    return f"With {patients} patient{_s(patients)} that leaves room for up to {bound:.0%} of patients like these (95% bound)."


def _per_case(found: Evidence, worst: Row) -> Iterator[tuple[str, str]]:
    """The mean over cases of the worst attack of each, where that is lower than any one attack."""
    rows = [row for row in found.attacks if row.by_case.keys() == worst.by_case.keys()]
    mean = math.fsum(min(row.by_case[case] for row in rows) for case in worst.by_case) / worst.cases
    if mean < worst.dice - 0.0005:
        yield "Worst of all", f"With the attack that hurts each case most, the mean is {mean:.3f}."


def _seen(found: Evidence) -> Iterator[tuple[str, str]]:
    if found.seen:
        told = listed(
            [f"{row.label} (PSNR {row.psnr:.1f} dB, Dice {row.dice:.3f})" for row in found.seen], _NAMED
        )
        yield (
            "Left out",
            f"{told}: below {SEEN_DB:.0f} dB anybody sees the change, which says nothing of an attack.",
        )


def _transfer(found: Evidence) -> Iterator[tuple[str, str]]:
    rows = [row for row in found.others if row.scored and not row.seen]
    if rows:
        row = min(rows, key=lambda row: row.dice)
        yield (
            "Volumes of others",
            f"On volumes made against {row.surrogate} under {row.label}, the worst of {len(rows)}: {row.dice:.3f}.",
        )


def _missing(found: Evidence) -> Iterator[tuple[str, str]]:
    """Cases without a result, and rows that do not rest on the same cases."""
    failed = [
        f"{row.label} on {row.failed} of {_cases(row.failed + row.cases)}" for row in found.rows if row.failed
    ]
    if failed:
        yield (
            "Failed",
            f"{listed(failed, _NAMED)}. The means leave these out, and if they are the hard ones the means are too high.",
        )
    counts = sorted({row.cases for row in found.rows if row.cases})
    if len(counts) > 1:
        yield (
            "Uneven",
            f"Rows rest on {counts[0]} to {counts[-1]} cases; each is compared with the clean Dice of its own cases only.",
        )


def _checks(found: Evidence) -> Iterator[tuple[str, str]]:
    """What is known of whether the numbers can be believed."""
    failed: dict[str, list[str]] = {}
    for row in found.attacks:
        for check in row.broken:
            failed.setdefault(check, []).append(row.label)
    said = [
        f"{listed(labels, _NAMED)} failed {check}: {meaning(check)}."
        for check, labels in sorted(failed.items(), key=lambda entry: int(entry[0][1:]))
    ]
    words = {
        UNCHECKED: "Nobody has looked whether these can be believed: {}.",
        WARNED: "With a warning: {}.",
        PASSED: "Passed all that was asked: {}. That proves nothing about an attack made for this network.",
    }
    for state, text in words.items():
        labels = [row.label for row in found.attacks if row.state == state]
        if labels:
            said.append(text.format(listed(labels, _NAMED)))
    if said:
        yield "Checks", " ".join(said)


def _flags(found: Evidence) -> Iterator[tuple[str, str]]:
    """What the rows say of themselves; checks have their own point."""
    flags: dict[str, list[str]] = {}
    for row in found.rows:
        for flag in row.flags:
            if ":" not in flag:
                flags.setdefault(flag, []).append(row.label)
    if flags:
        told = (
            f"{listed(labels, _NAMED)}: {flag}. {explain(flag)}" for flag, labels in sorted(flags.items())
        )
        yield "Flags", " ".join(told)


def _limits(found: Evidence) -> Iterator[tuple[str, str]]:
    """What the attacks that were tried can and cannot show."""
    attacks = found.attacks
    if not attacks:
        return
    said = []
    if all(row.one_step for row in attacks):
        said.append("Only attacks of a single step were tried, which are no measure of the worst case.")
    elif len(attacks) == 1:
        said.append("One attack was tried, and one attack never shows that a network holds out.")
    if not found.white_box:
        said.append("The network itself was not attacked; an attack that sees it finds more.")
    said.append("Every attacked Dice is an upper bound: a better attack can only lower it.")
    yield "Limits", " ".join(said)


def listed(words: Sequence[str], most: int = 99) -> str:
    """Words with commas and a last *and*."""
    words = [*words[:most], *([f"{len(words) - most} more"] if len(words) > most else [])]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _by(row: Row) -> Callable[[str], tuple[float, str]]:
    """Cases by their Dice, equal ones by name."""
    return lambda case: (row.by_case[case], case)


def _cases(number: int) -> str:
    return f"{number} case{_s(number)}"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
