"""Seals: what gives a marked volume back bit for bit, to whoever has the key and to nobody else.

A seal holds the difference of the raw bits of the original and the marked volume, compressed, encrypted and
authenticated, and the SHA-256 of the marked bytes it belongs to. Differences of bits, modulo 2^8 to 2^64, can be
undone for every value a file may hold; differences of floating-point numbers cannot.

    "RVXSEAL1" | length of the header, 4 bytes | header, JSON | ciphertext | tag, 32 bytes

The cipher `shake256-hmac` needs the standard library alone: SHAKE-256 of a subkey and the nonce as keystream,
HMAC-SHA256 of all that comes before the tag, checked before anything else is believed. `aes-256-gcm` is the one of
the package `cryptography`, under a subkey of every seal's own. A wrong key, a changed bit, a seal of another
volume or a volume that was stored again is an error and never a wrong volume.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

CIPHERS = ("shake256-hmac", "aes-256-gcm")

_MAGIC = b"RVXSEAL1"
_LARGEST_HEADER = 1 << 16
_DTYPE = re.compile(r"[<>|][iuf][1248]")
_GCM_LIMIT = 2**31 - 1  # bytes that `cryptography` encrypts in one call


class SealError(ValueError):
    """A seal cannot be opened or made; one line that says expected, found and what to do."""


class WrongKey(SealError):  # noqa: N818 - the name of the design
    """The tag does not fit: another key, or a seal that was changed. Which of them, nobody can tell."""


class Deriving(Protocol):
    """The owner's key as sealing needs it, see :class:`robustvox.attacks.Key`."""

    def derive(self, salt: bytes, purpose: str, context: bytes = b"", size: int = 32) -> bytes:
        """Secret bytes for one purpose and context."""
        ...

    def spend(self, nonce: bytes) -> None:
        """Note a nonce; ValueError if it was noted before."""
        ...


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How to seal: what a caller may choose. All of it is public and stands in the header.

    Args:
        salt: 16 bytes of scrypt; one per folder is enough. Fresh ones by default.
        nonce: 16 bytes, never twice with one key. Fresh ones by default.
        cipher: one of ``CIPHERS``.
        note: what else the header shall say, such as the attack; authenticated, not encrypted.

    Raises:
        SealError: wrong sizes, or a cipher that is unknown or not installed.
    """

    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    cipher: str = CIPHERS[0]
    note: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.salt) != 16 or len(self.nonce) != 16:
            raise SealError(
                f"expected a salt and a nonce of 16 bytes, got {len(self.salt)} and {len(self.nonce)}; leave them out"
            )
        if self.cipher not in CIPHERS:
            raise SealError(f"expected a cipher among {', '.join(CIPHERS)}, got {self.cipher!r}")
        if self.cipher == "aes-256-gcm":
            _aes_gcm(bytes(32))


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a seal says in the clear.

    Args:
        case: name of the volume, for people.
        cipher, salt, nonce: see :class:`Terms`; hexadecimal.
        dtype: of the voxels as stored, numpy's short name with byte order.
        size: bytes of the voxels.
        marked_sha256: of the marked volume that the seal opens.
        note: see :class:`Terms`.
    """

    case: str
    cipher: str
    salt: str
    nonce: str
    dtype: str
    size: int
    marked_sha256: str
    note: Mapping[str, str]

    def encode(self) -> bytes:
        """The bytes that are authenticated: the magic, the length, the header."""
        body = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
        if len(body) > _LARGEST_HEADER:
            raise SealError(
                f"expected a header of at most {_LARGEST_HEADER} bytes, got {len(body)}; shorten the note"
            )
        return _MAGIC + len(body).to_bytes(4, "big") + body


def seal_bytes(
    original: bytes,
    marked: bytes,
    *,
    dtype: np.dtype[Any],
    bound: bytes,
    key: Deriving,
    case: str,
    terms: Terms,
) -> bytes:
    """Seal what turns the marked voxels back into the original ones.

    Args:
        original, marked: voxels as stored, of equal length.
        dtype: of the voxels, with byte order.
        bound: SHA-256 of everything the seal shall belong to, the marked voxels at least.
        key: the owner's.
        case: name of the volume.
        terms: salt, nonce, cipher and note.

    Returns:
        The seal; equal arguments give equal bytes.

    Raises:
        SealError: voxels that do not fit each other or the dtype.
        ValueError: a nonce that the key has spent.
    """
    if len(original) != len(marked) or len(original) % dtype.itemsize or not _DTYPE.fullmatch(dtype.str):
        raise SealError(
            f"expected volumes of one size with whole or real voxels of 1 to 8 bytes, got {len(original)} and "
            f"{len(marked)} bytes of {dtype.str}; convert them to one dtype first"
        )
    header = Header(
        case=case,
        cipher=terms.cipher,
        salt=terms.salt.hex(),
        nonce=terms.nonce.hex(),
        dtype=dtype.str,
        size=len(marked),
        marked_sha256=bound.hex(),
        note=dict(terms.note),
    ).encode()
    key.spend(terms.salt + terms.nonce)
    plain = hashlib.sha256(original).digest() + _pack(original, marked, dtype)
    return header + _encrypt(plain, header, key, terms)


def unseal_bytes(seal: bytes, marked: bytes, *, bound: bytes, key: Deriving) -> bytes:
    """The original voxels.

    Args:
        seal: what :func:`seal_bytes` gave.
        marked: the marked voxels as stored.
        bound: SHA-256 as it was sealed, taken from the volume at hand.
        key: the owner's.

    Raises:
        WrongKey: another key, or a changed seal.
        SealError: no seal at all, or one of another volume.
    """
    header, encoded, body = _parse(seal)
    plain = _decrypt(body, header, encoded, key)
    if not hmac.compare_digest(bytes.fromhex(header.marked_sha256), bound) or len(marked) != header.size:
        raise SealError(
            f"expected the marked volume that the seal of {header.case!r} was made for, found another one or one that "
            "was changed or stored again; use the file as `mark` wrote it"
        )
    original = _unpack(plain[32:], marked, np.dtype(header.dtype))
    if not hmac.compare_digest(hashlib.sha256(original).digest(), plain[:32]):
        raise SealError(
            f"expected the original of {header.case!r} from its seal, found other bytes; report this defect"
        )
    return original


def read_header(seal: bytes) -> Header:
    """What a seal says in the clear. Nothing of it is to be trusted before the seal was opened.

    Raises:
        SealError: if it is no seal.
    """
    return _parse(seal)[0]


def seal_array(
    original: np.ndarray, marked: np.ndarray, *, key: Deriving, case: str, terms: Terms | None = None
) -> bytes:
    """Seal the original of a marked array of any shape, memory layout, byte order and real or whole dtype.

    Raises:
        SealError: different shapes or dtypes, or a dtype that is neither real nor whole.

    Example:
        >>> from robustvox.attacks import Key
        >>> key = Key(b"sixteen bytes or more, best of all random")
        >>> original = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        >>> seal = seal_array(original, original + 1, key=key, case="p01")
        >>> bool((unlock_array(original + 1, seal, key=key) == original).all())
        True
        >>> unlock_array(original + 2, seal, key=key)
        Traceback (most recent call last):
            ...
        robustvox.benchmark.records.seal.SealError: expected the marked volume that the seal of 'p01' was made for, ...
    """
    if original.shape != marked.shape or original.dtype != marked.dtype:
        raise SealError(
            f"expected an original like the marked {marked.shape} {marked.dtype}, got {original.shape} {original.dtype}"
            "; mark it in its own dtype"
        )
    return seal_bytes(
        original.tobytes(),
        marked.tobytes(),
        dtype=marked.dtype,
        bound=_array_digest(marked),
        key=key,
        case=case,
        terms=terms or Terms(),
    )


def unlock_array(marked: np.ndarray, seal: bytes, *, key: Deriving) -> np.ndarray:
    """The original of a marked array, in its shape and dtype, contiguous in C order.

    Raises:
        WrongKey: another key, or a changed seal.
        SealError: no seal, or one of another array.
    """
    original = unseal_bytes(seal, marked.tobytes(), bound=_array_digest(marked), key=key)
    return np.frombuffer(bytearray(original), marked.dtype).reshape(marked.shape)


def _array_digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(f"{array.dtype.str} {array.shape}\0".encode() + array.tobytes()).digest()


def _pack(original: bytes, marked: bytes, dtype: np.dtype[Any]) -> bytes:
    """Compressed difference of bits: small numbers of either sign first made small again, bytes of one weight together."""
    kind, bits = _unsigned(dtype), 8 * dtype.itemsize
    change = (np.frombuffer(original, kind) - np.frombuffer(marked, kind)).astype(kind.newbyteorder("<"))
    sign = (change >> (bits - 1)).astype(change.dtype)
    folded = ((change << 1) ^ (np.zeros_like(sign) - sign)).astype(change.dtype)
    planes = folded.view(np.uint8).reshape(-1, dtype.itemsize).T
    return zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)


def _unpack(packed: bytes, marked: bytes, dtype: np.dtype[Any]) -> bytes:
    kind = _unsigned(dtype)
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(dtype.itemsize, -1)
    folded = np.ascontiguousarray(planes.T).view(kind.newbyteorder("<"))[:, 0]
    change = (folded >> 1) ^ (np.zeros_like(folded) - (folded & 1))
    return (np.frombuffer(marked, kind) + change).astype(kind).tobytes()


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The whole numbers without sign that have the bits of this dtype, in its byte order."""
    return np.dtype(f"{dtype.str[0]}u{dtype.itemsize}")


def _encrypt(plain: bytes, header: bytes, key: Deriving, terms: Terms) -> bytes:
    if terms.cipher == "aes-256-gcm":
        if len(plain) > _GCM_LIMIT:
            raise SealError(
                f"expected at most {_GCM_LIMIT} bytes with aes-256-gcm, got {len(plain)}; use {CIPHERS[0]}"
            )
        return _aes_gcm(key.derive(terms.salt, "aes-256-gcm", terms.nonce)).encrypt(
            terms.nonce[:12], plain, header
        )
    body = _masked(plain, key, terms.salt, terms.nonce)
    return body + _tag(header + body, key, terms.salt, terms.nonce)


def _decrypt(body: bytes, header: Header, encoded: bytes, key: Deriving) -> bytes:
    """The plain text of a seal that is authentic.

    Raises:
        WrongKey: if it is not.
    """
    salt, nonce = bytes.fromhex(header.salt), bytes.fromhex(header.nonce)
    if header.cipher == "aes-256-gcm":
        from cryptography.exceptions import InvalidTag

        try:
            return _aes_gcm(key.derive(salt, "aes-256-gcm", nonce)).decrypt(nonce[:12], body, encoded)
        except (InvalidTag, ValueError):
            raise _refused() from None
    text, tag = body[:-32], body[-32:]
    if not hmac.compare_digest(_tag(encoded + text, key, salt, nonce), tag):
        raise _refused()
    return _masked(text, key, salt, nonce)


def _refused() -> WrongKey:
    return WrongKey(
        "expected the key that the volume was marked with and an unchanged seal, found a tag that does not fit; "
        "check --key-file, or copy the seal again"
    )


def _masked(text: bytes, key: Deriving, salt: bytes, nonce: bytes) -> bytes:
    """The text under the keystream; the same again takes it off."""
    stream = hashlib.shake_256(key.derive(salt, "encrypt", nonce, 64)).digest(len(text))
    return (np.frombuffer(text, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()


def _tag(text: bytes, key: Deriving, salt: bytes, nonce: bytes) -> bytes:
    return hmac.digest(key.derive(salt, "authenticate", nonce, 64), text, "sha256")


def _aes_gcm(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise SealError(
            "expected the package cryptography for aes-256-gcm, found none; `pip install cryptography`, or mark with "
            f"--cipher {CIPHERS[0]}"
        ) from None
    return AESGCM(key)


def _parse(seal: bytes) -> tuple[Header, bytes, bytes]:
    """Header, its encoded bytes, and the rest of a seal; only the form is checked."""
    start = len(_MAGIC) + 4
    length = int.from_bytes(seal[len(_MAGIC) : start], "big")
    end = start + length
    if not seal.startswith(_MAGIC) or length > _LARGEST_HEADER or len(seal) < end + 32:
        raise SealError(
            "expected a seal that `mark` wrote, found other or too few bytes; copy the seal again"
        )
    try:
        entry = json.loads(seal[start:end])
        header = Header(**entry)
        sizes = [len(bytes.fromhex(text)) for text in (header.salt, header.nonce, header.marked_sha256)]
        good = (
            sizes == [16, 16, 32]
            and header.cipher in CIPHERS
            and isinstance(header.case, str)
            and type(header.size) is int
            and _DTYPE.fullmatch(header.dtype) is not None
            and isinstance(header.note, dict)
            and header.encode() == seal[:end]
        )
    except (ValueError, TypeError, RecursionError):
        good = False
    if not good:
        raise SealError("expected a readable header in the seal, found a damaged one; copy the seal again")
    return header, seal[:end], seal[end:]
