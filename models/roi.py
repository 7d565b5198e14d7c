"""Which windows an architecture can take: the one check every builder makes before the first forward."""

from __future__ import annotations

from collections.abc import Sequence


def check_roi(
    name: str,
    roi_size: Sequence[int],
    divisor: int | Sequence[int],
    minimum: int = 1,
    *,
    single_voxel: bool = True,
    ranks: Sequence[int] = (3,),
) -> None:
    """Refuse a window the architecture cannot take, and name the nearest ones it can.

    Args:
        name: of the architecture, for the message.
        roi_size: window in voxels, one entry per spatial axis.
        divisor: every side must be a multiple of this; one for all axes or one per axis.
        minimum: smallest side.
        single_voxel: whether the coarsest level may shrink to one voxel. It may not where a normalization
            takes its statistics over the voxels of that level.
        ranks: numbers of spatial axes the architecture takes.

    Raises:
        ValueError: wrong number of axes, or sides that do not fit; with the nearest sizes below and above.

    Example:
        >>> check_roi("net", (20, 32, 32), 16)
        Traceback (most recent call last):
        ValueError: net expected a roi_size of multiples of 16, got (20, 32, 32); the nearest sizes that work ...
    """
    roi = tuple(roi_size)
    if len(roi) not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise ValueError(f"{name} expected a roi_size of {wanted} axes, got {roi}; give one side per axis")
    divisors = (divisor,) * len(roi) if isinstance(divisor, int) else tuple(divisor)
    least = tuple(-(-max(minimum, 1) // d) * d for d in divisors)
    fits = all(side % d == 0 and side >= low for side, d, low in zip(roi, divisors, least, strict=True))
    if fits and (single_voxel or roi != divisors):
        return
    rounded = (
        tuple(max(side // d * d, low) for side, d, low in zip(roi, divisors, least, strict=True)),
        tuple(max(-(-side // d) * d, low) for side, d, low in zip(roi, divisors, least, strict=True)),
    )
    if not single_voxel:
        # One voxel at the coarsest level has no statistics: two along the last axis are the nearest.
        rounded = tuple((*r[:-1], 2 * r[-1]) if r == divisors else r for r in rounded)
    nearest = " and ".join(str(r) for r in dict.fromkeys(rounded))
    multiple = divisor if isinstance(divisor, int) else divisors
    bounds = f" of at least {minimum}" if minimum > 1 else ""
    bounds += "" if single_voxel else " with more than one voxel at the coarsest level"
    raise ValueError(
        f"{name} expected a roi_size of multiples of {multiple}{bounds}, got {roi}; "
        f"the nearest sizes that work are {nearest}"
    )
