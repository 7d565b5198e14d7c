"""From specs to attacks, and from attacks to specs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from robustvox.attacks import CATALOG

from ..craft.matched import Matched
from ..craft.named import NamedAttack
from ..specs.knobs import KNOBS, TOLERANCE
from ..specs.matched import SOURCE, MatchedSpec, split_spec, without_source
from ..specs.protocols import Protocol
from ..specs.spec import Spec, UsageError, canonical, format_value, normalize, parse_value
from .registries import Find, check_parameters, find_imported, import_name, resolve
from .source import require_fields, require_source, source_of

if TYPE_CHECKING:
    from robustvox.attacks import Attack
    from robustvox.attacks.interop import TorchAttack


def _load_matched(parts: MatchedSpec, protocol: Protocol | None, find: Find) -> NamedAttack:
    """Build what a matched spec names; the protocol fills in both attacks."""
    attack, reference = (_load(text, protocol, find) for text in (parts.attack, parts.reference))
    return match_attack(attack, reference, parts.on, parse_value(parts.tolerance))


def match_attack(
    attack: NamedAttack, reference: NamedAttack, on: str = "l2", tolerance: float = TOLERANCE
) -> NamedAttack:
    """Both attacks as one `Matched` with its spec.

    Raises:
        UsageError: if they cannot be matched.
    """
    try:
        both = Matched(attack=attack.attack, reference=reference.attack, on=on, tolerance=tolerance)
    except ValueError as error:
        raise UsageError(f"cannot match {attack.spec} to {reference.spec}: {error}") from error
    return NamedAttack(f"{attack.spec}@{on}~{format_value(float(tolerance))}={reference.spec}", both)


def match_all(attacks: Sequence[NamedAttack], reference: NamedAttack, on: str) -> list[NamedAttack]:
    """Every attack matched to the reference, which stays as it is where it is among them."""
    return [a if a.spec == reference.spec else match_attack(a, reference, on) for a in attacks]


def brief(spec: str, budgets: Collection[str] = KNOBS.keys(), protocol: Protocol | None = None) -> str:
    """A canonical spec without what follows from the rest and the protocol, budgets kept; the tables have it whole.

    Example:
        >>> brief("fgsm:eps=8/255,loss=dice")
        'fgsm:eps=8/255'
        >>> brief("gn:std=8/255@l2~0.02=fgsm:eps=8/255,loss=dice")
        'gn@l2=fgsm:eps=8/255'
        >>> from robustvox.benchmark.specs.protocols import PROTOCOLS
        >>> brief("fgsm:eps=8/255,loss=dice_ce", protocol=PROTOCOLS["bmvc2024"])
        'fgsm:eps=8/255'
    """
    matched = split_spec(spec)
    if matched is not None:
        usual = matched.tolerance == format_value(TOLERANCE)
        within = "" if usual else f"~{matched.tolerance}"
        # The budget of the attack is only where the search starts.
        reference = brief(matched.reference, protocol=protocol)
        return f"{brief(matched.attack, (), protocol)}@{matched.on}{within}={reference}"
    plain = without_source(spec)
    try:
        parsed = Spec.parse(plain)
        kept = dict(parsed.parameters)
        with warnings.catch_warnings():
            # What is only tried here concerns nobody.
            warnings.simplefilter("ignore")
            for key in parsed.parameters:
                rest = {k: v for k, v in kept.items() if k != key}
                if (
                    key not in budgets
                    and without_source(recorded_attack(canonical(parsed.name, rest), protocol).spec) == plain
                ):
                    kept = rest
    except UsageError:
        # An attack of somebody's own that this process does not know, or no spec at all.
        return spec
    return canonical(parsed.name, kept)


def load_attack(text: str, protocol: Protocol | None = None) -> NamedAttack:
    """Build the attack that somebody typed: ``pgd:eps=8/255,steps=20``, ``torchattacks:MIFGSM,eps=8/255``.

    For what was typed only: ``package.module:Name`` is imported. What a file names is :func:`recorded_attack`'s.

    Args:
        text: the spec; ``iterate=last`` returns the last point of an iterative attack instead of the best.
        protocol: fills in what ``text`` leaves open, as `Protocol.attack_defaults` says; the spec of the result
            states it all and needs no protocol to be read back.

    Raises:
        UsageError: unknown attack or parameter, or a value the attack refuses.

    Example:
        >>> from robustvox.benchmark.specs.protocols import PROTOCOLS
        >>> load_attack("pgd:steps=10", PROTOCOLS["bmvc2024"]).spec
        'pgd:alpha=0.01,eps=8/255,iterate=last,loss=dice_ce,random_start=false,restarts=1,steps=10'
    """
    return _load(text, protocol, import_name)


def recorded_attack(spec: str, protocol: Protocol | None = None) -> NamedAttack:
    """Build the attack that a file names: a built-in, a plug-in, or one that this process has imported already.

    Nothing is imported for the sake of a file, and nothing but a subclass of ``Attack`` is called.

    Raises:
        UnregisteredError: an attack of somebody's own; whoever trusts it types it.
        UsageError: as :func:`load_attack`.

    Example:
        >>> recorded_attack("fgsm:eps=8/255,loss=dice").spec
        'fgsm:eps=8/255,loss=dice'
        >>> recorded_attack("os:system:command=date")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        robustvox.benchmark.specs.spec.UsageError: expected os:system to be a subclass of robustvox.attacks.Attack, ...
    """
    return _load(spec, protocol, find_imported)


def _load(text: str, protocol: Protocol | None, find: Find) -> NamedAttack:
    from robustvox.attacks import ATTACKS, Attack, load_attack_class
    from robustvox.attacks.published import LastIterate

    matched = split_spec(text)
    if matched is not None:
        return _load_matched(matched, protocol, find)
    package, _, rest = text.partition(":")
    if normalize(package) == "torchattacks":
        return _torchattack(rest)
    spec = Spec.parse(text)
    published = {key: load_attack_class(key) for key, entry in CATALOG.items() if entry.compatibility}
    registry = {**ATTACKS, **published}
    name, kind = resolve(spec.name, registry, "robustvox.attacks", "attack", find)
    if not (isinstance(kind, type) and issubclass(kind, Attack)):
        raise UsageError(
            f"expected {name} to be a subclass of robustvox.attacks.Attack, found {type(kind).__name__}; name the class"
        )
    if protocol is not None and protocol.mean_cosine and name == "cospgd":
        name, kind = "cospgd_mean", published["cospgd_mean"]
    require_fields(name, kind)
    written = {**(protocol.attack_defaults(name) if protocol else {}), **spec.parameters}
    if SOURCE in written and source_of(kind):
        require_source(name, str(written.pop(SOURCE)), kind)
    last = _takes_last(name, written)
    known = {f.name: f for f in fields(kind) if f.init}
    check_parameters(name, written, list(known))
    # `none` is a word where the parameter is one (VAFA's renorm) and no value elsewhere (its eps).
    words = {k for k, f in known.items() if isinstance(f.default, str)}
    parameters = {k: "none" if v is None and k in words else v for k, v in written.items()}
    try:
        attack = kind(**parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error
    attack = LastIterate(attack=attack) if last else attack
    return NamedAttack(attack_spec(name, attack), attack)


def _takes_last(name: str, parameters: dict[str, Any]) -> bool:
    """Take ``iterate`` out of the parameters and say whether the last iterate is meant."""
    if name not in CATALOG or not CATALOG[name].iterates or "iterate" not in parameters:
        return False
    iterate = parameters.pop("iterate")
    if iterate not in ("best", "last"):
        raise UsageError(f"{name}: expected iterate to be best or last, got {iterate!r}")
    return iterate == "last"


def attack_spec(name: str, attack: Attack) -> str:
    """Canonical spec of an attack object under a registry name."""
    from robustvox.attacks.interop import TorchAttack
    from robustvox.attacks.published import LastIterate

    if isinstance(attack, LastIterate):
        inner = attack.attack
        named = {f.name: getattr(inner, f.name) for f in fields(inner) if f.init}
        return canonical(name, {**named, "iterate": "last"})
    if isinstance(attack, TorchAttack):
        named = {} if name == _torchattack_name(attack) else {"attack": attack.name}
        return canonical(name, {**named, **dict(attack.parameters)})
    source = source_of(type(attack))
    return canonical(
        name,
        {
            **{f.name: getattr(attack, f.name) for f in fields(attack) if f.init},
            **({SOURCE: source} if source else {}),
        },
    )


def _torchattack(text: str) -> NamedAttack:
    """The attack that ``NAME[,key=value,...]`` or ``NAME[:key=value,...]`` names in the torchattacks package."""
    from robustvox.attacks.interop import TorchAttack

    spec = Spec.parse(":".join(re.split("[:,]", text, maxsplit=1)))
    try:
        attack = TorchAttack(name=spec.name, parameters=spec.parameters)
    except (ImportError, TypeError, ValueError) as error:
        raise UsageError(f"torchattacks: {str(error).removeprefix('torchattacks: ')}") from error
    return NamedAttack(attack_spec(_torchattack_name(attack), attack), attack)


def _torchattack_name(attack: TorchAttack) -> str:
    return f"torchattacks:{attack.name}"


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
    try:
        parsed = Spec.parse(text)
    except UsageError:
        return text
    kept = {k: v for k, v in parsed.parameters.items() if v is not None or k not in KNOBS}
    return canonical(parsed.name, kept)
