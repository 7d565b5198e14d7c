"""Seals give back every bit, to the key alone, of the very volume; everything else is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robustvox.attacks import Key
from robustvox.benchmark.records.seal import (
    CIPHERS,
    SealError,
    Terms,
    WrongKey,
    read_header,
    seal_array,
    unlock_array,
)  # fmt: skip

KEY = Key(b"the owner's key, of more than sixteen bytes")
SALT = bytes(range(16))
DTYPES = ["<f4", ">f4", "<f8", ">f8", "<i2", ">i2", "u1", "i1", "<u2", "<i4", ">u4", "<f2"]


def terms(number: int, **fields) -> Terms:
    return Terms(salt=SALT, nonce=number.to_bytes(16, "big"), **fields)


@pytest.fixture(scope="module", params=CIPHERS)
def sealed(request):
    """(original, marked, seal) of a small volume."""
    if request.param != CIPHERS[0]:
        pytest.importorskip("cryptography")
    rng = np.random.default_rng(0)
    original = rng.integers(-1000, 3000, (7, 6, 5)).astype("<i2")
    marked = (original + rng.integers(-60, 60, original.shape)).astype("<i2")
    given = Terms(salt=SALT, cipher=request.param, note={"mark": "keyed_mark"})
    return original, marked, seal_array(original, marked, key=KEY, case="p01", terms=given)


def everything(dtype: str):
    """Any bits, NaN payloads, infinities and negative zeros included."""
    size = np.dtype(dtype).itemsize
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
    return shapes.flatmap(
        lambda s: hnp.arrays(f"u{size}", s).map(
            lambda a: a.view(f"u{size}").astype(f"{dtype[0]}u{size}" if size > 1 else "u1").view(dtype)
        )
    )


@settings(max_examples=120, deadline=None)
@given(
    data=st.data(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(["C", "F", "strided", "reversed"])
)
def test_unlocking_gives_every_bit_back(data, dtype, layout):
    original = data.draw(everything(dtype))
    marked = (
        data.draw(hnp.arrays(f"u{original.itemsize}", original.shape))
        .astype(original.dtype.newbyteorder("=").str.replace("f", "u").replace("i", "u"))
        .view(original.dtype.newbyteorder("="))
        .astype(original.dtype)
        if original.dtype.kind != "f"
        else original[::-1].copy()
    )
    shaped = {
        "C": np.ascontiguousarray(marked),
        "F": np.asfortranarray(marked),
        "strided": np.repeat(marked, 2, axis=0)[::2],
        "reversed": marked[::-1].copy()[::-1],
    }[layout]
    seal = seal_array(original, shaped, key=KEY, case="x", terms=Terms(salt=SALT))
    restored = unlock_array(shaped, seal, key=KEY)
    assert restored.dtype == original.dtype
    assert restored.shape == original.shape
    assert restored.tobytes() == original.tobytes()
    # Layout is no part of a volume.
    assert unlock_array(np.ascontiguousarray(shaped), seal, key=KEY).tobytes() == original.tobytes()


def test_the_same_key_and_nonce_give_the_same_bytes_and_a_nonce_is_used_once():
    original, marked = np.arange(60, dtype="f4"), np.arange(60, dtype="f4") + 1
    first, second = (
        seal_array(original, marked, key=Key(b"the same key on two runs"), case="a", terms=terms(1))
        for _ in "ab"
    )
    assert first == second
    key = Key(b"the same key on two runs")
    seal_array(original, marked, key=key, case="a", terms=terms(1))
    with pytest.raises(ValueError, match="nonce: expected one that was never used"):
        seal_array(original, marked, key=key, case="a", terms=terms(1))
    nonces = {seal_array(original, marked, key=key, case="a")[:400] for _ in range(20)}
    assert len(nonces) == 20


def test_a_thousand_changed_bits_of_a_seal_are_refused(sealed):
    _, marked, seal = sealed
    rng = random.Random(0)
    for at in rng.sample(range(8 * len(seal)), min(1000, 8 * len(seal))):
        changed = bytearray(seal)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(SealError):
            unlock_array(marked, bytes(changed), key=KEY)
    for cut in (0, 1, 11, 12, 100, len(seal) - 1):
        with pytest.raises(SealError):
            unlock_array(marked, seal[:cut], key=KEY)
    with pytest.raises(SealError):
        unlock_array(marked, seal + b"\0", key=KEY)


def test_a_thousand_changed_bits_of_a_volume_are_refused(sealed):
    original, marked, seal = sealed
    rng = random.Random(1)
    for at in rng.sample(range(8 * marked.nbytes), 1000):
        changed = bytearray(marked.tobytes())
        changed[at // 8] ^= 1 << at % 8
        other = np.frombuffer(bytes(changed), marked.dtype).reshape(marked.shape)
        with pytest.raises(SealError, match="found another one or one that was changed"):
            unlock_array(other, seal, key=KEY)
    for other in (marked.astype("f4"), marked.astype(">i2"), marked.reshape(-1), original):
        with pytest.raises(SealError, match="found another one"):
            unlock_array(other, seal, key=KEY)


def refuse_wrong_keys(sealed, count):
    _, marked, seal = sealed
    for number in range(count):
        with pytest.raises(WrongKey, match="a tag that does not fit"):
            unlock_array(marked, seal, key=Key(b"somebody else's key, number %d" % number))


def test_wrong_keys_are_refused(sealed):
    refuse_wrong_keys(sealed, 10)


@pytest.mark.slow
def test_a_thousand_wrong_keys_are_refused(sealed):
    refuse_wrong_keys(sealed, 1000)


def test_a_seal_of_another_case_is_refused(sealed):
    original, marked, seal = sealed
    other = (original + 3).astype(original.dtype)
    theirs = seal_array(other, (marked + 3).astype(marked.dtype), key=KEY, case="p02")
    with pytest.raises(SealError, match="the seal of 'p02' was made for"):
        unlock_array(marked, theirs, key=KEY)
    assert unlock_array(marked, seal, key=KEY).tobytes() == original.tobytes()


def test_the_standard_cipher_is_what_its_description_says():
    """Taken apart by hand with the standard library: keystream, tag, compression, differences modulo 2^16."""
    original = np.array([5, -3, 32767, -32768], "<i2")
    marked = np.array([6, -3, -32768, 32767], "<i2")
    seal = seal_array(original, marked, key=KEY, case="p", terms=terms(77))
    length = int.from_bytes(seal[8:12], "big")
    header, body, tag = seal[: 12 + length], seal[12 + length : -32], seal[-32:]
    nonce = (77).to_bytes(16, "big")
    assert json.loads(header[12:])["nonce"] == nonce.hex()
    assert hmac.digest(KEY.derive(SALT, "authenticate", nonce, 64), seal[:-32], "sha256") == tag
    stream = hashlib.shake_256(KEY.derive(SALT, "encrypt", nonce, 64)).digest(len(body))
    plain = bytes(a ^ b for a, b in zip(body, stream, strict=True))
    assert plain[:32] == hashlib.sha256(original.tobytes()).digest()
    planes = np.frombuffer(zlib.decompress(plain[32:]), np.uint8).reshape(2, -1)
    # -1, 0, -1 (modulo 2^16), 1, folded: 1, 0, 1, 2
    assert planes.tolist() == [[1, 0, 1, 2], [0, 0, 0, 0]]
    assert header[12:].count(b"p01") == 0


def test_tags_are_compared_in_constant_time(sealed, monkeypatch):
    _, marked, seal = sealed
    if read_header(seal).cipher != CIPHERS[0]:
        pytest.skip("the package compares tags itself")
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(a)) or real(a, b))
    unlock_array(marked, seal, key=KEY)
    assert compared == [32, 32, 32]  # the tag, the marked volume, the original


def test_nothing_of_the_key_or_the_original_is_in_a_seal(sealed):
    original, _, seal = sealed
    key = b"the owner's key, of more than sixteen bytes"
    for secret in (key, key.hex().encode(), KEY.derive(SALT, "encrypt", b"", 16), original.tobytes()[:12]):
        assert secret not in seal
    header = read_header(seal)
    assert header.case == "p01"
    assert header.note == {"mark": "keyed_mark"}


def test_volumes_that_do_not_fit_are_refused():
    a = np.zeros((2, 3), "f4")
    for other in (a.astype("f8"), a[:1], a.T):
        with pytest.raises(SealError, match="expected an original like the marked"):
            seal_array(a, other, key=KEY, case="x")
    for odd in ("c8", "S4", "?", "M8[s]"):
        with pytest.raises(SealError, match="expected volumes of one size"):
            seal_array(
                a.astype(odd) if odd != "M8[s]" else np.zeros((2, 3), odd),
                np.zeros((2, 3), odd),
                key=KEY,
                case="x",
            )
    with pytest.raises(SealError, match="expected a cipher among"):
        Terms(cipher="xor")
    with pytest.raises(SealError, match="salt and a nonce of 16 bytes"):
        Terms(nonce=b"short")


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"RVXSEAL1",
        b"RVXSEAL1" + b"\xff" * 60,
        b"RVXSEAL1\0\0\0\x02[]" + bytes(40),
        b"\x1f\x8b" + bytes(99),
    ],
)
def test_junk_is_no_seal(junk):
    with pytest.raises(SealError, match="expected a"):
        read_header(junk)
