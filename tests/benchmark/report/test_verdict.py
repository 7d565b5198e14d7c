"""The words of a report, from rows whose right words are known; and that no row makes it promise anything."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from robustvox.benchmark.metrics.statistics import LEAST_UNITS, sign_flip
from robustvox.benchmark.records.states import FAILED, PASSED, UNCHECKED, WARNED
from robustvox.benchmark.report import verdict as verdict_module
from robustvox.benchmark.report.compared import NEEDED, compared
from robustvox.benchmark.report.evidence import SEEN_DB, Evidence, Organ, Row
from robustvox.benchmark.report.verdict import Tone, Verdict, judge
from robustvox.benchmark.show.tables.best import BEST, TIED


def attack(dice: float, *, label: str = "pgd 8/255", clean: float = 0.8, n: int = 4, **more) -> Row:
    """A row over n patients, a case each, all with the same Dice unless given."""
    by_case = more.pop("by_case", {f"case_{k}": dice for k in range(n)})
    known = {
        "attack": label, "label": label, "surrogate": "net", "patients": n, "clean": clean, "dice": dice, "l2": 10.0,
        "psnr": 30.0, "state": PASSED, "by_case": by_case, "clean_by_case": dict.fromkeys(by_case, clean),
    }  # fmt: skip
    return Row(**(known | more))


def noise(dice: float, **more) -> Row:
    return attack(dice, **{"label": "gn std 8/255", "noise": True} | more)


def verdict(*rows: Row, **more) -> Verdict:
    return judge(Evidence(**{"model": "net", "rows": rows, "patients": 4, "white_box": True} | more))


def point(found: Verdict, name: str) -> str:
    return dict(found.points)[name]


@pytest.mark.parametrize(
    ("dice", "tone", "words"),
    [
        (0.39, Tone.BREAKS, "net breaks: mean Dice falls from 0.800 to 0.390 under pgd 8/255, the only attack tried."),
        (0.41, Tone.MUCH, "net is hurt badly: mean Dice falls from 0.800 to 0.410"),
        (0.65, Tone.SOME, "net is hurt: mean Dice falls from 0.800 to 0.650"),
        (0.77, Tone.LITTLE, "net loses little to what was tried: mean Dice falls from 0.800 to 0.770"),
        (0.795, Tone.LITTLE, "No harm was found: mean Dice falls from 0.800 to 0.795"),
        (0.82, Tone.LITTLE, "No harm was found: mean Dice rises from 0.800 to 0.820"),
    ],
)  # fmt: skip
def test_the_headline_says_how_much_is_lost(dice, tone, words):
    found = verdict(attack(dice))
    assert found.headline.startswith(words)
    assert found.tone is tone
    assert ("That is no proof that it holds out." in found.headline) == (tone is Tone.LITTLE)


def test_an_attack_that_does_nothing_speaks_of_the_attack():
    found = verdict(attack(0.8), noise(0.8))
    assert "An attack that does nothing speaks as much of the attack as of net." in found.headline
    assert point(found, "Random noise").endswith("there is no drop to explain.")


def test_the_strongest_attack_counts_and_ties_are_named_together():
    found = verdict(attack(0.6, label="fgsm"), attack(0.3001, label="pgd"), attack(0.2999, label="apgd"))
    assert found.headline.endswith("to 0.300 under apgd and pgd, the strongest of 3 attacks tried.")


def test_without_attacks_there_is_no_answer():
    assert verdict().headline == "No answer: no attacked volume has a score."
    only = verdict(noise(0.1))
    assert only.headline == "No answer yet: only random noise was tried, and noise is no attack."
    failed = verdict(attack(math.nan, by_case={}, failed=4, patients=0))
    assert failed.headline == "No answer: no attacked volume has a score."
    assert point(failed, "Failed").startswith("pgd 8/255 on 4 of 4 cases.")
    assert {found.tone for found in (verdict(), only, failed)} == {Tone.NONE}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (attack(0.1, clean=0.2), "No answer: the clean Dice of net is 0.200, below 0.5."),
        (attack(0.1, flags=("untrained",)), "No answer: the weights of net are random"),
        (attack(0.1, state=FAILED, broken=("C0", "C6")), "No answer: net fails check C0"),
        (attack(0.1, clean=math.nan), "No answer yet: the clean Dice of some attacked case is not known"),
        (
            attack(0.0, psnr=6.1),
            "No answer: every attack tried changes the volume so much that anybody would see it",
        ),
    ],
)
def test_an_implausible_start_is_no_answer(row, words):
    assert verdict(row).headline.startswith(words)
    assert verdict(row).tone is Tone.NONE


def test_what_anybody_sees_does_not_make_the_headline():
    found = verdict(attack(0.6), attack(0.0, label="pgd 1", psnr=6.1))
    assert "to 0.600 under pgd 8/255, the only attack tried." in found.headline
    assert point(found, "Left out").startswith("pgd 1 (PSNR 6.1 dB, Dice 0.000): below 20 dB")


def test_fewer_than_eight_patients_have_no_interval():
    few = verdict(attack(0.4, by_case={"a": 0.2, "b": 0.6}, patients=2))
    assert point(few, "How sure") == (
        "No interval: 2 cases, and it takes 8 patients to give one. As many others may give another mean. "
        "Cases lie between 0.200 (a) and 0.600 (b)."
    )
    many = verdict(attack(0.4, n=8, low=0.35, high=0.45))
    assert point(many, "How sure").startswith(
        "95% interval of the attacked mean: 0.350 to 0.450 (8 cases, patients resampled)."
    )
    frames = verdict(attack(0.4, n=4, patients=2))
    assert point(frames, "How sure").startswith("No interval: 4 cases of 2 patients,")
    assert point(frames, "How sure").endswith("All cases have 0.400.")
    alone = verdict(attack(0.4, n=1))
    assert point(alone, "How sure").startswith("No interval: 1 case, and")
    assert "Cases lie" not in point(alone, "How sure")


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (
            noise(0.8),
            "Of the same size (gn std 8/255, L2 10 beside 10) it costs nothing: the harm is the attack's doing.",
        ),
        (noise(0.7), "it costs 0.100 of Dice, 25% of the drop: the rest is the attack's doing."),
        (noise(0.5), "it costs 0.300 of Dice, 75% of the drop: most of the harm is done by any disturbance"),
        (noise(0.3), "no less than the attack, so nothing here is the attack's doing."),
        (noise(0.85), "it costs nothing: the harm is the attack's doing."),
        (
            noise(0.7, l2=5.0),
            "What was tried is smaller (gn std 8/255, L2 5 beside 10) and costs 0.100 of Dice",
        ),
        (noise(0.7, by_case={"another": 0.7}), "Not tried, so nobody knows"),
    ],
)
def test_noise_of_the_same_size_says_how_much_is_the_attacks_doing(control, words):
    assert words in point(verdict(attack(0.4), control), "Random noise")


def test_noise_is_compared_over_the_cases_that_both_have():
    # On the case without noise the attack does nothing; on the other, noise does half of what it does.
    worst = attack(0.5, by_case={"a": 0.8, "b": 0.2})
    control = noise(0.5, by_case={"b": 0.5})
    assert "costs 0.300 of Dice, 50% of the drop" in point(verdict(worst, control), "Random noise")


def test_distances_have_the_unit_and_the_rule_of_the_protocol():
    gone = attack(0.4, hd95_clean=1.0, hd95=70.0, missing=2)
    assert point(verdict(gone), "Surfaces") == (
        "HD95 goes from 1.0 to 70.0 mm; 2 times an organ is gone, which counts the volume's diagonal."
    )
    published = replace(gone, flags=("drops-lost", "hd95-voxels"), missing=1)
    assert point(verdict(published), "Surfaces") == (
        "HD95 goes from 1.0 to 70.0 voxels; 1 time an organ is gone, which is left out of it."
    )


def test_lost_organs_are_counted_and_named():
    organs = (
        Organ(class_id=1, name="liver", cases=4),
        Organ(class_id=2, name="spleen", cases=4, lost=1, case="c"),
        Organ(class_id=3, name="gallbladder", cases=3, lost=3, case="b", gone=True, unfound=1),
    )
    found = verdict(attack(0.3, invented=2), organs=organs)
    assert point(found, "Organs") == (
        "Lost, with a Dice below half of what it was before: gallbladder in 3 of 3 cases and spleen in 1 of 4 cases. "
        "Not one voxel is left of gallbladder in b."
    )
    assert point(found, "Invented organs").startswith("Up to 2 under one attack")
    assert point(found, "Before any attack") == "Not found on the clean volume: gallbladder in 1 case."


@pytest.mark.parametrize(("patients", "share"), [(1, "95%"), (4, "53%"), (12, "22%"), (59, "5%")])
def test_none_lost_says_what_so_few_patients_allow(patients, share):
    organs = (Organ(class_id=1, name="liver", cases=4),)
    said = point(verdict(attack(0.7), organs=organs, patients=patients), "Organs")
    assert said.startswith("No organ lost half of its Dice in any of 4 cases.")
    assert f"up to {share} of patients like these (95% bound)" in said
    assert f"{beta.ppf(0.95, 1, patients):.0%}" == share  # Clopper and Pearson, as SciPy has them


def test_failed_and_uneven_rows_are_told():
    found = verdict(attack(0.4, n=3, failed=1), attack(0.5, label="fgsm"))
    assert point(found, "Failed").startswith("pgd 8/255 on 1 of 4 cases. The means leave these out")
    assert point(found, "Uneven").startswith("Rows rest on 3 to 4 cases")


def test_checks_are_told_by_what_they_mean():
    rows = [
        attack(0.2, state=FAILED, broken=("C8", "C6")),
        attack(0.5, label="fgsm", state=UNCHECKED),
        attack(0.6, label="vafa", state=WARNED),
        attack(0.7, label="apgd"),
    ]
    found = verdict(*rows)
    assert found.headline.endswith("Its row failed C8 and C6: read the checks before this number.")
    said = point(found, "Checks")
    assert said.startswith(
        "pgd 8/255 failed C6: more steps find more; the number is too high. pgd 8/255 failed C8: "
    )
    assert "Nobody has looked whether these can be believed: fgsm." in said
    assert "With a warning: vafa." in said
    assert (
        "Passed all that was asked: apgd. That proves nothing about an attack made for this network." in said
    )


def test_flags_of_rows_are_told_in_words():
    found = verdict(
        attack(0.7, flags=("no-progress", "C8:fail")), attack(0.75, label="fgsm", flags=("no-progress",))
    )
    assert point(found, "Flags") == (
        "pgd 8/255 and fgsm: no-progress. On some case no step of the attack beat its start: no gradient, a wrong sign or "
        "too large a step."
    )
    assert "Flags" not in dict(verdict(attack(0.7)).points)


def test_one_attack_and_one_step_say_so():
    assert "one attack never shows that a network holds out" in point(verdict(attack(0.7)), "Limits")
    step = point(verdict(attack(0.7, one_step=True)), "Limits")
    assert step.startswith(
        "Only attacks of a single step were tried, which are no measure of the worst case."
    )
    others = verdict(attack(0.7, surrogate="other"), white_box=False)
    assert "on volumes made against other networks" in others.headline
    assert "The network itself was not attacked" in point(others, "Limits")


def test_the_worst_attack_of_each_case_counts_where_it_is_lower():
    found = verdict(
        attack(0.4, by_case={"a": 0.2, "b": 0.6}), attack(0.45, label="vafa", by_case={"a": 0.6, "b": 0.3})
    )
    assert point(found, "Worst of all").endswith("the mean is 0.250.")
    assert "Worst of all" not in dict(verdict(attack(0.4), attack(0.5, label="fgsm")).points)


def test_nothing_is_ever_called_robust_or_safe():
    """Whatever the rows are: no promise, and a number that is not there is not printed."""
    organs = (Organ(class_id=1, name="liver", cases=4),)
    for dice, clean, state, control in product(
        (0.0, 0.5, 0.8, 0.9, math.nan),
        (0.0, 0.3, 0.8, 1.0, math.nan),
        (PASSED, UNCHECKED, FAILED),
        (None, 0.8),
    ):
        rows = [attack(dice, clean=clean, state=state, broken=("C8",) if state == FAILED else ())]
        rows += [noise(control, clean=clean)] if control is not None else []
        found = verdict(*rows, organs=organs)
        text = " ".join([found.headline, *(part for entry in found.points for part in entry)]).lower()
        assert not {"robust", "safe", "secure", "reliable", "withstands"} & {*text.replace(".", " ").split()}
        assert "nan" not in text.replace("organ", "")
        assert found.headline


def test_models_are_compared_over_the_attack_that_hurts_all_most():
    def model(name: str, dice: float, n: int = 12) -> Evidence:
        rows = (attack(dice, n=n, surrogate=name), attack(0.7, n=n, label="fgsm", surrogate=name))
        return Evidence(model=name, rows=rows, patients=n)

    def marks(*names: str) -> dict:
        words = dict(zip(names, (BEST, TIED), strict=False))
        return {("d", "p", name, name, "pgd 8/255"): word for name, word in words.items()}

    three = [model("a", 0.3), model("b", 0.5), model("c", 0.6)]
    assert compared(three, marks("c", "b")) == (
        "Under pgd 8/255, of the attacks that all of them met the one that hurts most, c keeps most (0.600); "
        "b (0.500) cannot be told from it; a (0.300) is lower at the 5% level (sign-flip test over patients, Holm's "
        "correction)."
    )
    few = compared([model("a", 0.3, 4), model("b", 0.5, 4)], marks("b", "a"))
    assert few.endswith("With 4 patients no difference can reach that level.")
    assert compared([three[0]], {}) == ""
    apart = [model("a", 0.3), model("b", 0.5, 4)]
    assert compared(apart, {}) == "The models share no attack on the same cases, so they cannot be compared."


def test_the_documentation_states_the_same_limits():
    text = (Path(__file__).parents[3] / "docs" / "figures_and_reports.md").read_text(encoding="utf-8")
    shares = re.findall(r"^\| ([\d.]+) (?:and more|to [\d.]+) \| (.+) \|$", text, re.M)
    assert [(float(least), word) for least, word in shares] == [
        (least, word) for least, _, word in verdict_module.SHARES
    ]
    for words in (
        f"less than {verdict_module.NOTHING:g} of Dice",
        f"PSNR below {SEEN_DB:.0f} dB",
        f"clean Dice is\nbelow {verdict_module.PLAUSIBLE:g}",
        f"from {LEAST_UNITS} patients on",
        f"at least {verdict_module.SAME_SIZE:g} of the attack's",
        f"From {verdict_module.EXPLAINS:g} on it does most",
        "With five\npatients or fewer" if NEEDED == 6 else "",
    ):
        assert words in text, words


def test_the_needed_patients_are_those_of_the_sign_flip_test():
    p_values = {n: sign_flip(np.ones(n)) for n in (NEEDED - 1, NEEDED)}
    assert p_values[NEEDED - 1] > 0.05 > p_values[NEEDED]
