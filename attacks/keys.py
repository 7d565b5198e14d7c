"""The owner's key: everything keyed is derived from it, and nothing shows it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any, NoReturn

import torch

SALT_BYTES = 16
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}  # 16 MiB and about 30 ms per guess
_LEAST = 16


class KeyFileError(ValueError):
    """A key cannot be used; the message says why and never what it is."""


class Key:
    """A secret of the owner, from which generators and subkeys are derived.

    master = scrypt(secret, salt, n=2^14, r=8, p=1, 64 bytes); what is used is SHAKE-256 over master, the name of its
    purpose and a context, so that no derived value tells of another. The secret is in no repr, cannot be pickled or
    copied, and is compared by nobody: two objects are equal if they are the same object.

    Args:
        secret: at least 16 bytes; random ones are best, a passphrase has to be a long one.

    Raises:
        KeyFileError: if the secret is too short.

    Example:
        >>> key = Key(b"sixteen bytes or more, best of all random")
        >>> key
        Key(<secret>)
        >>> salt = bytes(16)
        >>> key.derive(salt, "test", b"a", 4) == key.derive(salt, "test", b"b", 4)
        False
    """

    __slots__ = ("_masters", "_secret", "_spent")

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _LEAST:
            raise KeyFileError(
                f"key: expected at least {_LEAST} bytes, got {len(secret)}. Make one with "
                '`python -c "import secrets; print(secrets.token_hex(32))" > key`'
            )
        self._secret = bytes(secret)
        self._masters: dict[bytes, bytes] = {}
        self._spent: set[bytes] = set()

    @classmethod
    def read(cls, path: Path) -> Key:
        """The key in a file: all of its bytes but the blanks and line ends around them.

        Raises:
            KeyFileError: if the file cannot be read or is too short.
        """
        try:
            # A pipe of the shell, `<(...)`, has somebody who writes; one that lies in a folder may wait for ever.
            if stat.S_ISFIFO(path.stat().st_mode) and not str(path).startswith(("/dev/fd/", "/proc/")):
                raise KeyFileError(
                    f"key file: expected a file at {path.name}, got a pipe. Write the key to a file"
                )
            with path.open("rb") as stream:
                secret = stream.read(1 << 20)
        except OSError as error:
            raise KeyFileError(
                f"key file: expected a readable file at {path.name}, got {error.strerror}"
            ) from None
        return cls(secret.strip(b" \t\r\n"))

    def derive(self, salt: bytes, purpose: str, context: bytes = b"", size: int = 32) -> bytes:
        """Secret bytes for one purpose and context.

        Args:
            salt: 16 bytes, public; one scrypt is computed per salt.
            purpose: a name such as "encrypt".
            context: what else the bytes shall depend on, such as a nonce or a case id.
            size: how many bytes.
        """
        if len(salt) != SALT_BYTES:
            raise ValueError(
                f"salt: expected {SALT_BYTES} bytes, got {len(salt)}. Draw secrets.token_bytes({SALT_BYTES})"
            )
        if salt not in self._masters:
            self._masters[salt] = hashlib.scrypt(self._secret, salt=salt, dklen=64, **_SCRYPT)
        # Lengths in front of the parts: no two (purpose, context) give the same stream of bytes.
        parts = (self._masters[salt], purpose.encode(), context)
        return hashlib.shake_256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest(size)

    def generator(self, salt: bytes, case: str) -> torch.Generator:
        """Source of the keyed choices of one volume's mark, on the CPU.

        Two keys, salts or cases give different marks; the same three give the same.
        """
        seed = int.from_bytes(self.derive(salt, "mark", case.encode(), 8), "big") >> 1
        return torch.Generator().manual_seed(seed)

    def spend(self, nonce: bytes) -> None:
        """Note that something is encrypted under this nonce.

        Raises:
            ValueError: if something was already; two texts under one nonce would give away their difference.
        """
        if nonce in self._spent:
            raise ValueError(
                "nonce: expected one that was never used with this key, got one that was. Draw a new one"
            )
        self._spent.add(nonce)

    def __repr__(self) -> str:
        return "Key(<secret>)"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "Key: expected to stay in this process, got pickled or copied. Read the key file where it is used"
        )
