"""Write the pictures of docs/figures in fewer colors: a third of the bytes, no channel moved by more than 8 of 255.

python docs/compress_figures.py

Scripts beside this one do it themselves; run it for pictures of the benchmark's commands. These write 32 bits per pixel,
and the tree has to stay small. What was written here is left as it is.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

FIGURES = Path(__file__).resolve().parent / "figures"
MOST_SHADES = 3000
"""What a palette can hold unseen; slices of a real CT have more."""


def smaller(picture: Image.Image) -> bytes:
    """The PNG of a picture on white paper in 256 colors, undithered, or with 64 levels of each channel.

    Colors are chosen by coverage: a median cut gives all of them to the grays of a CT, and organs change their color.
    """
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture.convert("RGBA"))
    few = paper.convert("RGB")
    if few.getcolors(MOST_SHADES) is None:
        few = few.point(lambda value: min(255, (value + 2) // 4 * 4))
    else:
        few = few.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    few.save(stream, "png", optimize=True)
    return stream.getvalue()


def compress(path: Path) -> None:
    """Make one file smaller, once."""
    with Image.open(path) as picture:
        if picture.mode == "RGBA":
            path.write_bytes(smaller(picture))
            sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


def main() -> None:
    for path in sorted(FIGURES.glob("*.png")):
        compress(path)


if __name__ == "__main__":
    main()
