"""Addresses without what nobody else is to read."""

from __future__ import annotations

import pytest

from distrain.log.address import without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@there:5000/api", "http://there:5000/api"),
        ("postgresql+psycopg2://me:p@ss:w0rd@there/runs", "postgresql+psycopg2://there/runs"),
        ("https://token@there", "https://there"),
        ("no http://me:secret@a/b, no s3://you:secret@c", "no http://a/b, no s3://c"),
        ("simplecache::ftp://me:secret@there/x.png", "simplecache::ftp://there/x.png"),
        ("http://there/by?whom=me@there", "http://there/by?whom=me@there"),
        ("file:/a@b and c@d", "file:/a@b and c@d"),
    ],
)
def test_names_and_passwords_are_left_out(text: str, shown: str) -> None:
    assert without_password(text) == shown
