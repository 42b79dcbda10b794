"""The pages: relative links lead to files and to headings of theirs, and pages that code names exist."""

import re
import subprocess

import pytest

from tests.helpers import REPOSITORY

FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED = re.compile(r"\bdocs/[\w/-]+\.(?:md|png|svg|jpg)\b")


def files(*patterns: str) -> list[str]:
    """The repository's files, without what .gitignore names."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: what belongs to the repository is unknown")
    return sorted(name for name in done.stdout.splitlines() if (REPOSITORY / name).is_file())


def anchors(text: str) -> set[str]:
    """What a link after # may name: the headings, written as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    broken = []
    for page in files("*.md"):
        path = REPOSITORY / page
        text = path.read_text(encoding="utf-8")
        for name, anchor in LINK.findall(FENCED.sub("", text)):
            target = path.parent / name if name else path
            if not target.exists():
                broken.append(f"{page}: {name}")
            elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
                broken.append(f"{page}: {name}#{anchor}")
    assert not broken


def test_pages_that_code_names_exist():
    named = {
        (name, page)
        for name in files("*.py", "*.smk", "*.yaml", "Snakefile", "Makefile")
        for page in NAMED.findall((REPOSITORY / name).read_text(encoding="utf-8"))
    }
    assert not {(name, page) for name, page in named if not (REPOSITORY / page).exists()}
