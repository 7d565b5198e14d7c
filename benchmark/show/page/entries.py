"""Who stands behind a row: the paper, the code, the weights and their licence of every model on the page.

Of a network of the registry they come from the catalogue and from the header of the zoo's checkpoint with the recorded
hash, of a submitted one from its card, ``results/cards/<sha256>.json``. A link leads to a file beside the results that
is there, or to an address that begins with ``https:``; whatever else a card says stays text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from robustvox.models import CATALOG, ZOO, CheckpointError, ModelCard, read_card

from ...records.submission import Card, published_card
from ...specs.defences import CATALOG as DEFENCES
from ...specs.defences import split_defence

_LINKED = re.compile(
    r"(?<![\w/])(?:"
    r"https://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?(?:/[\w.~!$&()*+,;=:@%/?#-]*)?"
    r"|(?i:arxiv):\s?\d{4}\.\d{4,5}(?!\d)"
    r"|(?i:doi):\s?10\.\d{4,9}/[\w.()/:-]+)",
    re.ASCII,
)


class Link(NamedTuple):
    """A text, and where it leads; nowhere where that is empty."""

    text: str
    href: str = ""


@dataclass(frozen=True)
class Entry:
    """What there is to know of a model.

    Attributes:
        about: what it is, in a line.
        papers, code, weights: each a text that may lead somewhere.
        licence: of the weights.
        data: what it was trained on, extra data included.
        card: everything on one page.
    """

    about: str = ""
    papers: tuple[Link, ...] = ()
    code: tuple[Link, ...] = ()
    weights: tuple[Link, ...] = ()
    licence: tuple[Link, ...] = ()
    data: str = ""
    card: tuple[Link, ...] = ()

    @property
    def lines(self) -> tuple[tuple[str, tuple[Link, ...]], ...]:
        """What is known, each under its heading."""
        found = {
            "Paper": self.papers,
            "Code": self.code,
            "Weights": self.weights,
            "Trained on": (Link(self.data),) if self.data else (),
            "Licence": self.licence,
            "Card": self.card,
        }
        return tuple((name, links) for name, links in found.items() if links)


@dataclass(frozen=True)
class Surroundings:
    """What lies beside a folder of results, and may be linked from the page.

    Args:
        results: the folder that the page is in.
        zoo: folder of the checkpoints that come with the code.
    """

    results: Path
    zoo: Path = ZOO

    def link(self, path: str, text: str = "") -> Link:
        """A link to a file of the repository that the results are in; only the text where there is none."""
        root = self.results.resolve().parent
        ours = _is_ours(root) and (root / path).is_file()
        return Link(text or path, f"../{quote(path)}" if ours else "")

    def checkpoint(self, dataset: str, model: str, sha256: str) -> Path | None:
        """The zoo's file of a recorded model; None where it has none, or another one of that name."""
        base, defence = split_defence(model)
        path = self.zoo / dataset / ".".join(filter(None, (base, defence, "safetensors")))
        if not re.fullmatch(r"[a-z0-9_]+", base) or not path.is_file():
            return None
        return path if hashlib.sha256(path.read_bytes()).hexdigest() == sha256 else None


def _is_ours(root: Path) -> bool:
    """Whether a folder is a clone of this project; files of these names in somebody else's are about something else."""
    project = root / "pyproject.toml"
    return project.is_file() and b'\nname = "robustvox"\n' in project.read_bytes().replace(b"\r", b"")


def load_entries(results: Path, dataset: str, models: Mapping[str, tuple[str, str]]) -> dict[str, Entry]:
    """What is known of the models of a dataset, by the name that is shown; nothing of one that nobody describes.

    Args:
        results: folder of the page.
        dataset: as the records call it.
        models: shown name to the name in the records and the sha256.
    """
    around = Surroundings(results)
    found = {shown: _entry(around, dataset, name, sha256) for shown, (name, sha256) in models.items()}
    return {shown: entry for shown, entry in found.items() if entry is not None}


def _entry(around: Surroundings, dataset: str, name: str, sha256: str) -> Entry | None:
    path = around.checkpoint(dataset, name, sha256)
    submitted = published_card(around.results, sha256) if path is None else None
    return submitted_entry(submitted) if submitted is not None else _registered(around, name, sha256, path)


def submitted_entry(card: Card) -> Entry:
    """What a submission says of itself."""
    more = card.extra_training_data
    return Entry(
        about=f"{card.title}, by {', '.join(card.authors)}",
        papers=tuple(linked(card.paper)),
        code=tuple(linked(card.code)),
        weights=(Link(f"sha256 {card.sha256[:8]}"),),
        licence=tuple(linked(card.licence)),
        data=card.data if more.strip().lower() == "none" else f"{card.data}; extra: {more}",
    )


def linked(text: str) -> Iterator[Link]:
    """A text of somebody else as pieces: its ``https`` addresses, arXiv numbers and DOIs are links, the rest is text.

    Example:
        >>> list(linked("Ma et al., arXiv:2401.04722"))
        [Link(text='Ma et al., ', href=''), Link(text='arXiv:2401.04722', href='https://arxiv.org/abs/2401.04722')]
        >>> [link.href for link in linked("javascript:alert(1) http://a.example https://a@b.example/")]
        ['']
    """
    at = 0
    for match in _LINKED.finditer(text):
        shown = match[0].rstrip(".,;:)")
        href = _href(shown, text[match.start() + len(shown) :])
        if href:
            if match.start() > at:
                yield Link(text[at : match.start()])
            yield Link(shown, href)
            at = match.start() + len(shown)
    if at < len(text):
        yield Link(text[at:])


def _href(shown: str, rest: str) -> str:
    """Where a piece of text leads; nowhere where it goes on as no address does."""
    kind, _, number = shown.partition(":")
    if kind.lower() == "arxiv":
        return f"https://arxiv.org/abs/{number.strip()}"
    if kind.lower() == "doi":
        return f"https://doi.org/{number.strip()}"
    return "" if rest[:1] in ("@", "\\") or "." not in shown.split("/")[2] else shown


def _registered(around: Surroundings, name: str, sha256: str, path: Path | None) -> Entry | None:
    """Of a network of the registry; its weights and data are described where the zoo has them at ``path``."""
    architecture, defence = re.split("[@:]", name, maxsplit=1)[0], split_defence(name)[1]
    catalogue, trained = CATALOG.get(architecture), DEFENCES.get(defence)
    if catalogue is None:
        return None
    papers = [*linked(catalogue.source)]
    if trained is not None and trained.source:
        papers += [Link("; of the defence: "), *linked(trained.source)]
    entry = Entry(
        about=catalogue.summary + (f"; trained with {defence}: {trained.summary}" if trained else ""),
        papers=tuple(papers),
        code=(around.link(f"models/{catalogue.module.lstrip('.').replace('.', '/')}.py"),),
        weights=(Link(f"not in the zoo, sha256 {sha256[:8] or 'unknown'}"),),
        licence=(Link("code "), around.link("LICENSE", "Apache-2.0")),
        card=(around.link(f"docs/models/{architecture}.md"),),
    )
    try:
        card = read_card(path) if path is not None else None
    except CheckpointError:  # the hash is that of the records: what the header lacks, only the page lacks
        card = None
    return entry if path is None or card is None else _with_weights(around, entry, path, card, sha256)


def _with_weights(around: Surroundings, entry: Entry, path: Path, card: ModelCard, sha256: str) -> Entry:
    folder = f"models/zoo/{path.parent.name}"
    licence = str(card.data.get("licence", ""))
    terms = around.link(f"{folder}/LICENCE.md", licence)
    # Generated volumes have no licence; where the data's binds what is made of them, the zoo says so beside the weights.
    bound = "; weights and data " if terms.href else "; data "
    return replace(
        entry,
        weights=(around.link(f"{folder}/{path.name}", path.name), Link(f", sha256 {sha256[:8]}")),
        data=card.dataset,
        licence=(*entry.licence, *((Link(bound), terms) if licence else ())),
    )
