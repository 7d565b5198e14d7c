"""What the flags of the tables mean, for the reader of a row."""

from __future__ import annotations

from .board import Board, Frame

#: id of a check -> the question it answers, as docs/sanity_checks.md puts it
QUESTIONS = {
    "C0": "Is the clean score that of a trained network?",
    "C1": "Is a zero budget the clean score?",
    "C2": "Does more budget hurt more?",
    "C3": "Does an unbounded attack destroy everything?",
    "C4": "Are many steps at least as good as one?",
    "C5": "Is the attack stronger than noise of its budget?",
    "C6": "Has it converged?",
    "C7": "Are the gradients alive?",
    "C8": "Does a search without gradients do better?",
    "C9": "Is the model random?",
    "C10": "Does it return logits?",
    "C11": "Are there enough classes for the loss?",
    "C12": "Does it optimize at test time?",
    "C13": "Is the budget kept by what is scored?",
    "C14": "Does the step size matter?",
    "C15": "Does another loss break cases that this one spares?",
    "C16": "Is the scored predictor the attacked one?",
    "C17": "Is the attack strong on an undefended model?",
    "C18": "Does the order of the cases change a result?",
    "C20": "Do Dice and HD95 tell the same story?",
    "C21": "How large is a change without a bound?",
    "C22": "Does the pipeline hurt without the attack?",
    "C23": "Is the gradient more than rounding?",
    "C24": "Does the gradient depend on chance?",
    "C25": "Do nearly equal volumes get nearly equal answers?",
    "C26": "Does the scale of the logits hide the gradient?",
    "C27": "Is the gradient that of the answer?",
}


FAILURES = {
    "C0": "the network does not do its task on these volumes: wrong weights, window, labels or orientation",
    "C1": "attack and scoring do not see the same thing, so any drop may come from that",
    "C2": "a larger budget hurt less: the attack is not at its best there, or its knob is no budget",
    "C3": "not even an attack without a bound breaks the model, so its gradients lead nowhere and the number is too high",
    "C4": "a single step did better than many, so the attack is broken and the number too high",
    "C5": "noise of its budget does as much, so the attack finds nothing",
    "C6": "more steps find more; the number is too high",
    "C7": "the gradient is zero or not finite, so the attack is blind and the number too high",
    "C8": "a search without gradients does better, so the model hides its gradients and the number is too high",
    "C9": "the model is random, and an attack on one draw of it is too weak",
    "C10": "the model returns probabilities, whose gradients vanish; the number is too high",
    "C11": "classes of model, data and loss do not agree",
    "C12": "the model optimizes while it predicts, which the attack does not see through; the number is too high",
    "C13": "what was scored is outside the budget that the row names",
    "C14": "another step size finds more; the number is too high",
    "C15": "another loss breaks cases that this one spares; the number is too high",
    "C16": "the network that was attacked is not the one that is scored",
    "C17": "the attack is weak on an undefended model, so it says little of any other",
    "C18": "the result depends on the order of the cases and cannot be repeated",
    "C20": "Dice falls while HD95 improves, so an organ that is gone is missing in the mean",
    "C21": "the change is large enough to be seen, and no budget bounds it",
    "C22": "part of the harm is done by the attack's own pipeline before it attacks",
    "C23": "the gradient is hardly more than rounding, so the attack follows nothing; the number is too high",
    "C24": "the gradient depends on chance, so one draw of it is too weak; the number is too high",
    "C25": "nearly equal volumes get other answers, as behind a detector, and the attack may have met that alone",
    "C26": "the scale of the logits hides the gradient; the number is too high",
    "C27": "the gradient is not that of the answer, so the attack is misled and the number too high",
}
"""id of a check -> what a failure means, as docs/sanity_checks.md puts it"""


NOTES = {
    "no-progress": "On some case no step of the attack beat its start: no gradient, a wrong sign or too large a step.",
    "unchanged": "On some case the attack gave back the very volume it was given.",
    "nonfinite-loss": "On some case the attack met a loss that was NaN or infinite.",
    "unmatched": "On some case no value of the knob gave the distortion of the reference.",
    "untrained": "The weights are random; the row tests the pipeline and says nothing about the architecture.",
    "training-case": "On some case the model was trained on the very volume it is scored on.",
    "tf32": "The network computed in TF32, which rounds factors to 10 bits; float32 elsewhere.",
    "bf16": "The network computed in bfloat16, which keeps 7 bits; float32 elsewhere.",
    "with-background": "The protocol counts the background as a class in every mean.",
    "hd95-voxels": "The protocol measures HD95 in voxels, whatever the heading says.",
    "drops-lost": "The protocol leaves out of HD95 an organ that only one side has, and of Dice one that only the prediction has.",
    "clean-incomplete": "Some scored case has no clean record, so there are no clean means.",
}


_STATUS = {"warn": "warns", "fail": "fails"}


Details = dict[tuple[str, str, str, str], str]  # protocol, model, attack, flag -> what the check found


def explain(flag: str) -> str:
    """A flag in words.

    Example:
        >>> explain("C8:fail")
        'Sanity check C8 fails: Does a search without gradients do better?'
    """
    check, _, status = flag.partition(":")
    if check in QUESTIONS:
        return f"Sanity check {check} {_STATUS.get(status, status)}: {QUESTIONS[check]}"
    return NOTES.get(flag, "Set by the record itself; open the records for the context.")


def meaning(check: str) -> str:
    """What the failure of a check means.

    Example:
        >>> meaning("C6"), meaning("C99")
        ('more steps find more; the number is too high', 'see docs/sanity_checks.md')
    """
    return FAILURES.get(check, "see docs/sanity_checks.md")


def details(board: Board) -> Details:
    """What flagged checks found, by protocol, shown model, attack and flag."""
    cases: Frame = board.cases
    shown = cases[["dataset", "surrogate", "surrogate_sha256"]].drop_duplicates()
    # The outcome's own name of the model goes: the tables know a checkpoint by its hash.
    found = board.outcomes.drop(columns="surrogate").merge(shown, on=["dataset", "surrogate_sha256"])
    columns = (found[name].tolist() for name in ("protocol", "surrogate", "attack", "flag", "rule", "detail"))
    return {
        (protocol, model, attack, flag): f"Rule: {rule}. Found: {detail}."
        for protocol, model, attack, flag, rule, detail in zip(*columns, strict=True)
    }
