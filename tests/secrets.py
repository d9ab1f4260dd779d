#!/usr/bin/env python3
"""Searches what servers logged while they were tested for the tests' secrets.

    RELEASE_SERVER_TEST_LOGS=DIR cargo test && tests/secrets.py DIR

Each secret is looked for as it is, percent-encoded, in hex, and in base64 wherever it may begin in what was encoded; and
whatever looks like a credential is found by its shape. First it plants each of these in a line and makes sure that it is
found. Needs Python 3.9."""

import base64
import pathlib
import re
import sys
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent

# What only a credential looks like, whosever it is.
SHAPES = {
    "a signature of a presigned link": re.compile(rb"X-Amz-Signature=[0-9a-f]{16}", re.I),
    "a security token of a presigned link": re.compile(rb"X-Amz-Security-Token=\w", re.I),
    "a signature of a signed request": re.compile(rb"AWS4-HMAC-SHA256 Credential=", re.I),
    "a JSON Web Token": re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    "credentials in a field": re.compile(rb"\b(?:Bearer|Basic) [A-Za-z0-9+/=_.~-]{8,}"),
    "a password in a URL": re.compile(rb"\w+://[^/\s\"'@:]+:[^/\s\"'@]+@"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def secrets():
    """The secrets of `secrets.txt`, each of which some test has."""
    sources = b"".join(path.read_bytes() for path in HERE.rglob("*.rs"))
    lines = (HERE / "secrets.txt").read_text().splitlines()
    found = [line.encode() for line in lines if line and not line.startswith("#")]
    for secret in found:
        if secret not in sources:
            sys.exit(f"no test has the secret {secret.decode()!r} any more: take it out of tests/secrets.txt")
    return found


def forms(secret):
    """The ways in which a secret may be written."""
    yield "as it is", secret
    yield "with plus for space", secret.replace(b" ", b"+")
    yield "in hex", secret.hex().encode()
    for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
        # Wherever it begins in what is encoded, its inner bytes become the same text.
        for before in range(3):
            text = alphabet(b"\0" * before + secret)
            yield f"in base64, {before} bytes in", text[-(-before * 8 // 6):(before + len(secret)) * 8 // 6]


def findings(text, known):
    # Whichever of its characters are percent-encoded.
    plain = urllib.parse.unquote_to_bytes(text)
    for secret in known:
        for form, written in forms(secret):
            if written in text or written in plain:
                yield f"{secret.decode()!r} {form}"
                break
    for what, shape in SHAPES.items():
        if shape.search(text):
            yield what


def self_test(known):
    """Fails unless what is planted is found, and nothing else is."""
    clean = b'{"level":"INFO","fields":{"event":"request","method":"GET"},"request.id":"job-7"}'
    assert not list(findings(clean, known)), list(findings(clean, known))
    for secret in known:
        plain = secret.decode()
        planted = [plain, urllib.parse.quote(plain, safe=""), urllib.parse.quote_plus(plain), secret.hex()]
        planted += ["".join(f"%{byte:02x}" for byte in secret)]
        planted += [base64.b64encode((user + plain).encode()).decode() for user in (":", "me:", "you:", "them:")]
        for text in planted:
            line = clean.replace(b"job-7", text.encode())
            assert list(findings(line, known)), f"{text!r} is overlooked"
    for what, planted in {
        "a signature of a presigned link": "http://s/x?X-Amz-Signature=" + "0f" * 32,
        "a security token of a presigned link": "http://s/x?X-Amz-Security-Token=abc",
        "a signature of a signed request": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3",
        "a JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjaSJ9.c2lnbmF0dXJl",
        "credentials in a field": "authorization: Bearer abcdefgh",
        "a password in a URL": "https://user:password@host/",
        "a private key": "-----BEGIN EC PRIVATE KEY-----",
    }.items():
        assert what in list(findings(clean + planted.encode(), known)), f"{what} is overlooked"


def main():
    known = secrets()
    self_test(known)
    files = sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_file())
    lines, bad = 0, []
    for path in files:
        with path.open("rb") as log:
            for number, line in enumerate(log, 1):
                lines += 1
                bad += [f"{path.name}:{number}: {what}: {line[:300]!r}" for what in findings(line, known)]
    print(f"{lines} log lines of {len(files)} files, {len(known)} secrets: {len(bad)} found")
    if not lines:
        sys.exit("nothing was logged: that is no proof")
    if bad:
        sys.exit("\n".join(bad[:50]))


if __name__ == "__main__":
    main()
