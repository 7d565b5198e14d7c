"""Attack specs as figures show them."""

from __future__ import annotations

from ..console import BUDGETS, brief
from ..matching import split_spec
from ..specs import Spec, canonical


def short_name(spec: str) -> str:
    """A canonical spec without what follows from the rest and without budgets that are not set.

    Example:
        >>> short_name("sa2:band=all,band_rule=index_sum,beta=0.1,block_size=8,eps=none,loss=dice_ce,"
        ...            "loss_weight=1,rho=0.2,ssim_weight=1,steps=20")
        'sa2:rho=0.2'
    """
    text = brief(spec)
    if split_spec(text) is not None:
        return text
    parsed = Spec.parse(text)
    kept = {k: v for k, v in parsed.parameters.items() if v is not None or k not in BUDGETS}
    return canonical(parsed.name, kept)
