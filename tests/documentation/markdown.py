"""What the documentation's pages hold beside prose: shell commands, files, and other blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
# A block that begins so is a file of that name, which commands of the page find.
NAMED = re.compile(r"(?:#!.*\n)?# ([\w-]+\.(?:py|sh|yaml))\n")


@dataclass(frozen=True)
class Block:
    """A block of code: its page and line, what it says its language is ("" for an indented one), its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, if it is one."""
        found = NAMED.match(self.text)
        return found and found[1]

    @cached_property
    def commands(self) -> list[str]:
        """The commands of a shell block, as they stand; lines that a backslash joins are one."""
        if self.language != "sh" or self.file:
            return []
        lines = re.split(r"(?<!\\)\n", self.text)
        return [line for line in lines if line.strip() and not line.startswith("#")]


def pages() -> list[str]:
    """All pages, in the order in which a reader gets to them: the README, then that of the site."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)```", index, re.DOTALL)
    names = [str((ROOT / "docs" / name).resolve().relative_to(ROOT)) for tree in trees for name in tree.split()]
    return list(dict.fromkeys(["README.md", "docs/index.md", *(f"{name}.md" for name in names)]))


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    for token in MarkdownIt("commonmark").parse(text_of(page)):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content)


def interrupted(command: str) -> bool:
    """Whether a reader is to press Ctrl-C, as the comment behind it says."""
    return command.endswith("# Ctrl-C")


def trains(command: str) -> bool:
    """Whether a command trains a job here, and does not only say how, or hand it to another program's machines."""
    return bool(re.search(r"(?:^make|\bdistrain|--) train\b", command)) and "--dry-run" not in command


def bare(command: str) -> str:
    """A command without the comment behind it, wherever it stands: what makes it the same command."""
    return command if interrupted(command) else re.sub(r"\s+#.*$", "", command)


def commands(page: str) -> list[str]:
    return [bare(command) for block in blocks(page) for command in block.commands]
