"""The cases of the suites, frozen: which volumes of a dataset a ranking rests on, by the hash of what is attacked.

The first twelve of the validation split. A hash covers image, label and spacing as they are read, so that an easier
volume under a known name is another volume. Datasets that nobody has published for have none yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SuiteCases:
    """Of one dataset.

    Attributes:
        classes: names of the foreground classes; every one is scored.
        data: case to the fingerprint of its data.
    """

    classes: tuple[str, ...]
    data: Mapping[str, str]


SUITE_CASES: Mapping[str, SuiteCases] = {
    "hippocampus": SuiteCases(
        classes=("Anterior", "Posterior"),
        data={
            "hippocampus_019": "4183f636eeb58e22945b31c074efcd91e7feb7cbe7f3c3497b1f5961d96035af",
            "hippocampus_026": "31536edc29cb2f877e19031cd04d6266f375e815bf364f5940be2d3ac95802c6",
            "hippocampus_038": "4caedea19bf17ed0326f3884309c36791dfa500ea20f968442bc7de981390c05",
            "hippocampus_058": "df6425605472846815894bd9f8068cea82f9cc65bcc2f7468cfcf2b91af406a6",
            "hippocampus_084": "bb7f60488467a0369761a733b8598f487dddf5b3de1977764bcace9449ce7b1f",
            "hippocampus_094": "49ae10d908cef81ccbabcbc372b2ad12143c069c47ef60eca1e0ca0901de8f37",
            "hippocampus_105": "e6d9776a6762f918cd958cd6b56c9a4cff7780b3f6cea9222a661aff564fd652",
            "hippocampus_144": "df6f7ac1a622aebe8de795617b30d56315ce136bd44154be6ff7b29d72f3a482",
            "hippocampus_171": "dec0c26575b2d6ace622b7bc5df789de55c091016030b5d37d819798a809ac71",
            "hippocampus_175": "30772fe53ede82144224e290e921388760f184a6e96764ed9e1ed62c452e97f1",
            "hippocampus_185": "017aa25beb55c00ae7c678a6514bd9440570c32cd977df1839a01eabcc449fc3",
            "hippocampus_195": "a8149c2b8d6d97f34340d4b18e7cc892969111d711ea65e485eeccc3380687b4",
        },
    ),
    "phantom": SuiteCases(
        classes=("liver", "spleen", "right_kidney", "left_kidney", "aorta", "stomach", "gallbladder"),
        data={
            "val_000": "b9915930c839566f99b36078770ff1b54902399532f9a1667e47f1172fc5da26",
            "val_001": "78d49fd45792b5b466289d48126f9f5d7d868cff2f1972b0274a2e80e373a732",
            "val_002": "8614eb628dcf6cdf3b576036360dda7d80d943f7291af65f6c736efd5bcaa31a",
            "val_003": "141589456bc116fd37078331776bd7aef2284f16d89725e2b139375213d63bd4",
            "val_004": "1e8beb971d894b0ed2e80d83bdd94d85855ad3910fa8beb317aae9d25fce30b3",
            "val_005": "8cd03c08f4786f9b0cc35a733d3f56318f7c979b59b27517d1bd3d8cdc5c84cc",
            "val_006": "9854d668754a31e148f955bfe51d34df0ce09cfd8f0ac0208fd235d1ee09f7dd",
            "val_007": "6799a47c2c501f714822fdeab3d5e6c48d1df2ca01f3fbf56679295a7f315d3a",
            "val_008": "55e525d332c527712cc83b7eb3e01ec12b12ad9899a561809e65435603e61814",
            "val_009": "1e49fbf8b3c9c1c755cdb6c3546a7c3647d14573666e7bc52cf3c02da0c011ca",
            "val_010": "8471fd14aab79599d52f1926162b64cbb4eb5c013763d2ad2dae37795967ad48",
            "val_011": "d51fb0e8df53958a355872118137e94bef950a73391ea39b0a9d81097c1a0c01",
        },
    ),
}
