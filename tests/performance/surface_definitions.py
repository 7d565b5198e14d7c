"""HD95 and NSD beside MONAI and the package ``surface-distance`` on 50 random volumes of four organs, 1 mm voxels.

Run ``OMP_NUM_THREADS=1 python tests/performance/surface_definitions.py [volumes]`` (about half a minute).

MONAI measures between the centers of surface voxels, as we do; surface-distance between the corners of voxels that
the surface passes, weighted by area. So no definition can agree with both better than they agree with each other. The
last lines change one thing at a time: which points, and their weight.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import surface_distance
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.networks.utils import one_hot
from scipy.ndimage import gaussian_filter, map_coordinates

from robustvox.benchmark.metrics.scores import score

SHAPE, SPACING, CLASSES, TOLERANCE = (72, 76, 68), (1.0, 1.0, 1.0), 5, 2.0


def smooth_field(rng: np.random.Generator, sigma: float, amplitude: float) -> np.ndarray:
    field = np.stack([gaussian_filter(rng.normal(size=SHAPE), sigma) for _ in range(3)])
    return field * amplitude / field.std()


def organs(rng: np.random.Generator) -> np.ndarray:
    """Four warped ellipsoids with half axes of 7 to 14 mm."""
    where = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")) + smooth_field(rng, 6.0, 3.0)
    labels = np.zeros(SHAPE, np.uint8)
    for index in range(CLASSES - 1):
        corner = np.array([(index >> bit) & 1 for bit in range(3)])
        center, radius = (0.3 + 0.4 * corner) * SHAPE, rng.uniform(7, 14, 3)
        labels[np.square((where.T - center) / radius).sum(-1).T < 1] = index + 1
    return labels


def deformed(rng: np.random.Generator, labels: np.ndarray, amplitude: float) -> np.ndarray:
    where = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")) + smooth_field(rng, 5.0, amplitude)
    return map_coordinates(labels, where, order=0, mode="nearest")


def unweighted(found: dict[str, np.ndarray]) -> float:
    """Their points, every one counted alike."""
    return max(np.percentile(found[f"distances_{way}"], 95) for way in ("gt_to_pred", "pred_to_gt"))


def compare(volumes: int) -> np.ndarray:
    """A row per organ: seed, HD95 of ours, MONAI, surface-distance and of their points unweighted, both NSD."""
    rows = []
    for seed in range(volumes):
        rng = np.random.default_rng(seed)
        reference = organs(rng)
        prediction = deformed(rng, reference, (1.0, 2.0, 3.0, 4.0)[seed % 4])
        p, r = (one_hot(torch.from_numpy(x)[None, None], CLASSES) for x in (prediction, reference))
        monai = compute_hausdorff_distance(p, r, percentile=95, spacing=SPACING)[0].numpy()
        options = {"num_classes": CLASSES, "spacing_mm": SPACING}
        table = score(prediction, reference, **options, nsd_tolerance_mm=TOLERANCE)
        for row in table[table.status == "ok"].itertuples():
            found = surface_distance.compute_surface_distances(
                reference == row.class_id, prediction == row.class_id, SPACING
            )
            theirs = surface_distance.compute_robust_hausdorff(found, 95)
            nsd = surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE)
            rows.append((seed, row.hd95_mm, monai[row.class_id - 1], theirs, unweighted(found), row.nsd, nsd))
    return np.array(rows)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    volumes = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seed, ours, monai, theirs, points, nsd, their_nsd = compare(volumes).T
    gap = np.abs(ours - theirs)
    per_volume = [abs((ours - theirs)[seed == one].mean()) for one in np.unique(seed)]
    print(f"{volumes} volumes, {len(ours)} organs, mean HD95 {ours.mean():.2f} mm; differences in mm:")
    print(f"MONAI, HD95 of an organ                    max {np.abs(ours - monai).max():.1e}")
    print(
        f"surface-distance, HD95 of an organ         max {gap.max():.2f}  mean {gap.mean():.2f}  "
        f"within 0.5: {np.mean(gap <= 0.5):.0%}  theirs larger: {np.mean(theirs > ours + 1e-9):.0%}"
    )
    print(
        f"surface-distance, mean HD95 of a volume    max {max(per_volume):.2f}  mean {np.mean(per_volume):.2f}"
    )
    print(f"surface-distance against MONAI, an organ   max {np.abs(theirs - monai).max():.2f}")
    print(f"  of it, their points with equal weight    max {np.abs(points - ours).max():.2f}")
    print(f"  of it, the weights alone                 max {np.abs(points - theirs).max():.2f}")
    print(f"surface-distance, NSD at {TOLERANCE:g} mm             max {np.abs(nsd - their_nsd).max():.2f}")


if __name__ == "__main__":
    main()
