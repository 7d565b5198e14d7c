"""What is derived from a key, and that the key itself is nowhere to be seen."""

from __future__ import annotations

import copy
import hashlib
import pickle
import traceback

import pytest
import torch

from robustvox.attacks import Key
from robustvox.attacks.keys import KeyFileError

SECRET = b"a secret that must never be shown"
SALT = bytes(range(16))


def test_derivation_is_scrypt_and_shake_by_the_book():
    master = hashlib.scrypt(SECRET, salt=SALT, n=2**14, r=8, p=1, dklen=64)
    parts = b"".join(len(p).to_bytes(8, "big") + p for p in (master, b"encrypt", b"nonce"))
    assert Key(SECRET).derive(SALT, "encrypt", b"nonce", 40) == hashlib.shake_256(parts).digest(40)


def test_every_purpose_context_salt_and_key_has_its_own_bytes():
    key = Key(SECRET)
    given = {
        key.derive(SALT, "a", b"bc"),
        key.derive(SALT, "ab", b"c"),  # the same letters, cut elsewhere
        key.derive(SALT, "a", b""),
        key.derive(bytes(16), "a", b"bc"),
        Key(SECRET + b"!").derive(SALT, "a", b"bc"),
    }
    assert len(given) == 5
    assert Key(SECRET).derive(SALT, "a", b"bc") in given


def test_generators_differ_by_key_salt_and_case_and_are_the_same_again():
    def draw(secret, salt, case):
        return torch.rand(4, generator=Key(secret).generator(salt, case)).tolist()

    one = draw(SECRET, SALT, "p01")
    assert one == draw(SECRET, SALT, "p01")
    for other in ((SECRET + b"!", SALT, "p01"), (SECRET, bytes(16), "p01"), (SECRET, SALT, "p02")):
        assert draw(*other) != one


def test_the_key_is_in_no_repr_pickle_copy_or_traceback():
    key = Key(SECRET)
    key.derive(SALT, "a")
    assert "secret that" not in repr(key) + str(key) + f"{key!r}"
    for hand_out in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="expected to stay in this process") as caught:
            hand_out(key)
        assert "secret that" not in "".join(traceback.format_exception(caught.value))
    assert not hasattr(key, "__dict__")


def test_a_nonce_is_spent_once():
    key = Key(SECRET)
    key.spend(b"one")
    key.spend(b"two")
    with pytest.raises(ValueError, match="nonce: expected one that was never used"):
        key.spend(b"one")


@pytest.mark.parametrize("secret", [b"", b"fifteen bytes.."])
def test_short_keys_are_refused_without_showing_them(secret):
    with pytest.raises(KeyFileError, match="at least 16 bytes, got") as caught:
        Key(secret)
    assert "fifteen" not in str(caught.value)


def test_key_files_lose_the_line_end_that_editors_add(tmp_path):
    (tmp_path / "a").write_bytes(SECRET)
    (tmp_path / "b").write_bytes(SECRET + b"\r\n")
    a, b = (Key.read(tmp_path / name) for name in "ab")
    assert a.derive(SALT, "x") == b.derive(SALT, "x")
    with pytest.raises(KeyFileError, match="expected a readable file at c"):
        Key.read(tmp_path / "c")


def test_a_salt_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="salt: expected 16 bytes, got 3"):
        Key(SECRET).derive(b"abc", "x")
