"""Write the pictures of docs/figures with a palette of 256 colors: a third of the bytes, no channel moved by more than 8 of 255.

python docs/compress_figures.py

The commands that draw them write 32 bits per pixel, and the tree has to stay small. What has a palette, or more shades
than a palette can hold (CT slices of a hospital), is left as it is.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

FIGURES = Path(__file__).resolve().parent / "figures"
MOST_SHADES = 3000


def with_palette(picture: Image.Image) -> bytes:
    """The PNG of a picture on white paper in 256 colors, undithered.

    Colors are chosen by coverage: a median cut gives all of them to the grays of a CT, and organs change their color.
    """
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture.convert("RGBA"))
    stream = io.BytesIO()
    colors = paper.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colors.save(stream, "png", optimize=True)
    return stream.getvalue()


def main() -> None:
    for path in sorted(FIGURES.glob("*.png")):
        with Image.open(path) as picture:
            if picture.mode != "P" and picture.getcolors(MOST_SHADES) is not None:
                path.write_bytes(with_palette(picture))
                sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
