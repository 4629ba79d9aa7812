"""HMAC-SHA256 of the C++ side, against the vectors of RFC 4231 and Python's own."""

from __future__ import annotations

import hashlib
import hmac
import random
import subprocess
from pathlib import Path

import build
import pytest

PROGRAM = """
#include <iostream>
#include "hmac_sha256.h"
using namespace horovod::common;
int main() {
  std::string key, message;
  while (std::cin >> key >> message)
    std::cout << ToHex(Sha256(FromHex(message.substr(1)))) << " "
              << ToHex(HmacSha256(FromHex(key.substr(1)), FromHex(message.substr(1)))) << "\\n";
  std::cout << IsSameDigest("ab", "ab") << IsSameDigest("ab", "aB") << IsSameDigest("ab", "abc") << IsSameDigest("", "")
            << " " << FromHex("abc").size() << FromHex("zz").size() << FromHex("AB").size() << "\\n";
}
"""

# Key, data, HMAC-SHA256 (test case 5, whose output is truncated, left out).
RFC_4231 = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        b"\xaa" * 131,
        b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be "
        b"hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program around the header that the patch adds."""
    patch = next(build.PATCHES.glob("*-http-store-authentication.patch")).read_text(encoding="utf-8")
    added = patch.split("+++ new/horovod/common/utils/hmac_sha256.h\n")[1].split("\n--- ")[0].splitlines()[1:]
    folder = tmp_path_factory.mktemp("hmac")
    (folder / "hmac_sha256.h").write_text("".join(line.removeprefix("+") + "\n" for line in added), encoding="utf-8")
    (folder / "program.cc").write_text(PROGRAM, encoding="utf-8")
    command = [*build._compiler(), "-std=c++14", "-Wall", "-Werror", "program.cc", "-o", "program"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "program"


def run(program: Path, pairs: list[tuple[bytes, bytes]]) -> list[str]:
    """The program's lines for these keys and messages."""
    lines = "".join(f"k{key.hex()} m{message.hex()}\n" for key, message in pairs)
    return subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_vectors_of_the_rfc(program: Path) -> None:
    lines = run(program, [(key, message) for key, message, _ in RFC_4231])
    assert [line.split()[1] for line in lines[:-1]] == [digest for _, _, digest in RFC_4231]


def test_every_length_around_a_blocks(program: Path) -> None:
    random_ = random.Random(5)
    pairs = [(random_.randbytes(random_.randrange(140)), random_.randbytes(length)) for length in range(260)]
    lines = run(program, pairs)
    for line, (key, message) in zip(lines[:-1], pairs, strict=True):
        assert line.split() == [hashlib.sha256(message).hexdigest(), hmac.digest(key, message, "sha256").hex()]


def test_comparing_and_reading_digits(program: Path) -> None:
    assert run(program, [])[-1] == "1001 000"
