"""A signature holds for one request of one bin, and for nothing else."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import WireError
from vision.signature import (
    CONTENT_DIGEST,
    FIELDS,
    HTTP_METHOD,
    MQTT_METHOD,
    NUMBERS,
    OUTBOX,
    SIGNATURE,
    SIGNATURE_INPUT,
    Subject,
    content_digest,
    key_id_of,
    read_signature,
    sign,
)

KEY = key_id_of(bytes(32))
SUBJECT = Subject("o1", 3, 7)


def _signer(text: bytes) -> bytes:
    return hashlib.sha512(text).digest()  # as long as a signature of Ed25519


def _signed(body: bytes = b"body", subject: Subject = SUBJECT) -> dict[str, str]:
    return sign(HTTP_METHOD, "/v1/batches", body, subject, KEY, 1_790_000_000, _signer)


def test_the_text_is_that_of_rfc_9421() -> None:
    signed = read_signature(HTTP_METHOD, "/v1/batches", b"body", _signed())
    assert signed is not None
    assert signed.text.decode() == (
        '"@method": POST\n'
        '"@path": /v1/batches\n'
        f'"content-digest": {content_digest(b"body")}\n'
        '"binsight-outbox": o1\n'
        '"binsight-numbers": 3-7\n'
        '"@signature-params": ("@method" "@path" "content-digest" "binsight-outbox" '
        f'"binsight-numbers");created=1790000000;keyid="{KEY}";alg="ed25519"'
    )
    assert (signed.key_id, signed.created_s, signed.subject) == (KEY, 1_790_000_000, SUBJECT)
    assert signed.signature == _signer(signed.text)


def test_the_digest_is_that_of_rfc_9530() -> None:
    # Source: RFC 9530, appendix D: the digest of {"hello": "world"} and a line feed.
    expected = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert content_digest(b'{"hello": "world"}\n') == expected


@given(st.binary(max_size=200), st.integers(0, 2**53), st.integers(0, 2**53))
def test_what_was_signed_is_read_whatever_the_case_of_its_names(
    body: bytes, first: int, last: int
) -> None:
    subject = Subject("o", first, last)
    fields = {name.upper(): value for name, value in _signed(body, subject).items()}
    signed = read_signature(HTTP_METHOD, "/v1/batches", body, fields)
    assert signed is not None
    assert signed.subject == subject
    assert signed.signature == _signer(signed.text)


def test_an_unsigned_request_has_none() -> None:
    assert read_signature(HTTP_METHOD, "/v1/batches", b"", {"authorization": "Bearer x"}) is None


def test_another_method_path_or_field_gives_another_text() -> None:
    fields = _signed()
    texts = set()
    for method, path, change in (
        (HTTP_METHOD, "/v1/batches", {}),
        (MQTT_METHOD, "/v1/batches", {}),
        (HTTP_METHOD, "/v1/keys", {}),
        (HTTP_METHOD, "/v1/batches", {OUTBOX: "o2"}),
        (HTTP_METHOD, "/v1/batches", {NUMBERS: "3-8"}),
        (
            HTTP_METHOD,
            "/v1/batches",
            {SIGNATURE_INPUT: fields[SIGNATURE_INPUT].replace("1790000000", "1790000001")},
        ),
    ):
        signed = read_signature(method, path, b"body", {**fields, **change})
        assert signed is not None
        texts.add(signed.text)
    assert len(texts) == 6


@pytest.mark.parametrize("missing", FIELDS)
def test_a_missing_field_is_named(missing: str) -> None:
    fields = _signed()
    del fields[missing]
    with pytest.raises(WireError, match=missing):
        read_signature(HTTP_METHOD, "/v1/batches", b"body", fields)


@pytest.mark.parametrize(
    "change",
    [
        {CONTENT_DIGEST: "sha-256=:\u00e4:"},
        {NUMBERS: "3"},
        {NUMBERS: "-1-7"},
        {NUMBERS: "3-7\n"},
        {OUTBOX: 'o1\n"@path": /v1/keys'},
        {OUTBOX: "ö"},
        {SIGNATURE: "bin=:AAAA:"},
        {SIGNATURE: "other=:" + base64.b64encode(bytes(64)).decode() + ":"},
        {SIGNATURE_INPUT: 'bin=("@method");created=1;keyid="' + KEY + '";alg="ed25519"'},
        {SIGNATURE_INPUT: _signed()[SIGNATURE_INPUT].replace("ed25519", "hmac-sha256")},
        {SIGNATURE_INPUT: _signed()[SIGNATURE_INPUT] + ';expires="x"'},
        {SIGNATURE_INPUT: _signed()[SIGNATURE_INPUT].replace(KEY, KEY.upper())},
    ],
)
def test_another_form_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(WireError, match="signature"):
        read_signature(HTTP_METHOD, "/v1/batches", b"body", {**_signed(), **change})


def test_another_body_is_refused() -> None:
    with pytest.raises(WireError, match="another body"):
        read_signature(HTTP_METHOD, "/v1/batches", b"Body", _signed())
