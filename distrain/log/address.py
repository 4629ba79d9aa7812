"""Addresses as others may read them."""

from __future__ import annotations

import re

# A password may hold what would have to be written as %40, so that the last @ before the path counts.
_WHO = re.compile(r"://[^/?#\s]*@")


def without_password(text: str) -> str:
    """The text with no name and password in its URLs; a name alone goes, too, since it may be a token."""
    return _WHO.sub("://", text)
