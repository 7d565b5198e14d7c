"""Square: random search with boxes, for models whose gradients cannot be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import checks
from .base import LossAttack, Sharing, ball
from .sign_gradient import Bounds, SignGradient
from .task import BestIterate, Objective, Task, choose

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10000 queries


@dataclass(frozen=True, kw_only=True)
class Square(LossAttack, SignGradient):
    """Square attack: gradient-free random search on the corners of the L-inf ball.

    Starts from random stripes x +- eps, constant along the first spatial axis. Every query moves one random
    box of every sample to an edge of the ball, x' = clamp(x + eps * s, 0, 1) in the box with one random sign s
    per channel, and keeps it where the loss rises. The box covers the share p of the volume; p halves after 10, 50, 200, 500, 1000,
    2000, 4000, 6000 and 8000 of 10000 queries, scaled to `queries`. The model is only ever evaluated, without
    autograd: a stronger result than PGD's tells that the model masks its gradients. queries + 1 forwards, no
    backward; finished samples go on, so the cost is the same for all.

    Source: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random
        search", ECCV 2020, arXiv 1912.00049; on volumes in ROG, Daza et al., MICCAI 2021, arXiv 2107.04263.
    Differs from the source: boxes in place of squares, cubes unless an axis is too short (see `box_sides`);
        the start is not counted as a query; the loss is not ROG's hard Dice, which no small box changes;
        returns, per sample, the evaluated point with the lowest hard foreground Dice.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        queries: evaluations after the start, >= 0; 0 returns the stripes. Use 1000 or more.
        p_init: share of the volume that the first boxes cover, in (0, 1].
        loss: key of `losses.LOSSES`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps`, `queries` or a share of the volume is out of range.

    Example:
        >>> from robustvox.attacks import Square, tiny_case
        >>> model, images, labels = tiny_case()
        >>> moved = Square(eps=8 / 255, queries=20)(model, images, labels) - images
        >>> round(255 * moved.abs().max().item(), 3)
        8.0
    """

    sharing = Sharing.EQUAL_SHAPES

    queries: int = 1000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("queries", self.queries, 0)
        checks.real("p_init", self.p_init, 0.0, 1.0, hint="The source uses 0.8")
        if self.p_init == 0:
            raise ValueError("p_init: expected a number in (0, 1], got 0. The source uses 0.8")

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)

    def share(self, query: int) -> float:
        """Share of the volume that the box of this query (1, 2, ...) covers."""
        at = query * 10_000 // self.queries
        return self.p_init / 2 ** sum(at > halving for halving in _HALVINGS)

    @torch.no_grad()
    def perturb(self, task: Task) -> Tensor:
        bounds, objective = ball(task.images, self.eps), self.objective(task)
        best = BestIterate(task, self.queries)
        images = stripes(task, bounds)
        boxes = Boxes(task, [box_sides(images.shape[2:], self.share(q + 1)) for q in range(self.queries)])
        highest = torch.full((images.shape[0],), -torch.inf, device=images.device, dtype=images.dtype)
        candidate = images
        for query in range(self.queries + 1):
            if query > 0:
                candidate = boxes.moved(query - 1, images, bounds)
            logits = task.logits(candidate)
            loss = objective(logits, query)
            best.offer(candidate, logits, loss)
            higher = loss > highest  # never true for NaN
            highest = torch.where(higher, loss, highest)
            images = choose(higher, candidate, images)
        return best.images


def stripes(task: Task, bounds: Bounds) -> Tensor:
    """An edge of the ball in every voxel: one random sign per channel and line along the first spatial axis."""
    shape = (task.images.shape[1], 1, *task.images.shape[3:])
    signs = [torch.randint(2, shape, generator=stream) for stream in task.streams]
    return torch.where(torch.stack(signs).bool().to(task.images.device), bounds[1], bounds[0])


class Boxes:
    """Where the box of every query lies and which edge of the ball it goes to, drawn ahead for all queries.

    Drawn inside the loop, the signs would go to the device one small copy at a time, each of which waits for it.

    Args:
        task: the batch under attack.
        sides: of the box of every query.
    """

    def __init__(self, task: Task, sides: Sequence[Sequence[int]]) -> None:
        spatial, channels = task.images.shape[2:], task.images.shape[1]
        self._boxes: list[list[tuple[slice, ...]]] = []
        signs = []
        for stream in task.streams:
            boxes, ups = [], []
            for box_side in sides:
                box = [slice(None)]
                for length, side in zip(spatial, box_side, strict=True):
                    corner = int(torch.randint(length - side + 1, (), generator=stream))
                    box.append(slice(corner, corner + side))
                boxes.append(tuple(box))
                ups.append(torch.randint(2, (channels, *[1] * len(spatial)), generator=stream).bool())
            self._boxes.append(boxes)
            signs.append(torch.stack(ups) if ups else torch.zeros(0, dtype=torch.bool))
        self._up = torch.stack(signs).to(task.images.device)

    def moved(self, query: int, images: Tensor, bounds: Bounds) -> Tensor:
        """A copy of the images in which the query's box of each sample lies on an edge of the ball.

        Signs under which the box would not change are turned, so that no query is spent on a known point.
        """
        changed = images.clone()
        for sample, boxes in enumerate(self._boxes):
            box, up = boxes[query], self._up[sample, query]
            low, high, before = (bound[sample][box] for bound in (*bounds, images))
            after = torch.where(up, high, low)
            changed[sample][box] = torch.where((after == before).all(), torch.where(up, low, high), after)
        return changed


def box_sides(spatial: Sequence[int], share: float) -> list[int]:
    """Sides of the box that covers this share of a volume: a cube, unless an axis is too short for it.

    A short axis is filled and the others grow instead. Clamping the whole cube to the shortest side would leave
    the first boxes of a 96 x 96 x 16 volume 2.8% of it where the schedule asks for 80%.

    Args:
        spatial: sizes of the volume.
        share: in (0, 1].

    Returns:
        One side per axis, from 1 to the size of the axis.
    """
    voxels = share * math.prod(spatial)
    sides = [0] * len(spatial)
    shortest_first = sorted(range(len(spatial)), key=lambda axis: spatial[axis])
    for done, axis in enumerate(shortest_first):
        # Nine digits are enough, and equal axes get equal sides also where rounding could go either way.
        cube = round(voxels ** (1 / (len(spatial) - done)), 9)
        sides[axis] = min(max(round(cube), 1), spatial[axis])
        voxels /= min(cube, spatial[axis])
    return sides
