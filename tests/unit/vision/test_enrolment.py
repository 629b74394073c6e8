"""What a bin asks with a new key, from untrusted bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.enrolment import (
    KEY_REQUEST_SCHEMA,
    MAX_KEY_REQUEST_BYTES,
    decode_key_receipt,
    decode_key_request,
    encode_key_receipt,
    encode_key_request,
    proof_text,
)
from vision.errors import WireError


@given(st.text(max_size=128), st.binary(min_size=32, max_size=32), st.text(max_size=128))
def test_a_request_comes_back(bin_id: str, public_key: bytes, code: str) -> None:
    body = encode_key_request(bin_id, public_key, lambda text: bytes(64), code)
    if len(body) > MAX_KEY_REQUEST_BYTES:
        return
    asked = decode_key_request(body)
    assert (asked.bin_id, asked.public_key, asked.code) == (bin_id, public_key, code)
    assert asked.proof == bytes(64)


def test_a_proof_is_of_one_bin_and_one_key() -> None:
    texts = {proof_text(b, k) for b in ("a", "b") for k in (bytes(32), b"\1" * 32)}
    assert len(texts) == 4


@given(st.binary(max_size=300))
def test_garbage_is_refused(body: bytes) -> None:
    for decode in (decode_key_request, decode_key_receipt):
        with pytest.raises(WireError):
            decode(body)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "binsight.key-request/9"},
        {"bin_id": 4},
        {"bin_id": "x" * 129},
        {"bin_id": "\ud800"},
        {"code": None},
        {"public_key": "AAAA"},
        {"public_key": "!"},
        {"proof": "AAAA"},
        {"proof": None},
    ],
)
def test_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    body = encode_key_request("b", bytes(32), lambda text: bytes(64), "c")
    with pytest.raises(WireError):
        decode_key_request(json.dumps({**json.loads(body), **change}).encode())


def test_a_large_request_is_refused() -> None:
    body = json.dumps({"schema": KEY_REQUEST_SCHEMA, "x": "y" * MAX_KEY_REQUEST_BYTES}).encode()
    with pytest.raises(WireError, match="at most"):
        decode_key_request(body)


def test_a_receipt_comes_back() -> None:
    assert decode_key_receipt(encode_key_receipt("k")) == "k"
    with pytest.raises(WireError, match="key receipt"):
        decode_key_receipt(b"<html>")
