"""The pages: links lead to files and headings; pages that code names exist, and code that pages name."""

import re
import subprocess

import pytest

from tests.helpers import REPOSITORY

FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
# Code such as `heads/depth.py:DepthHead.depth`: under workflow/carpose unless it begins with one of ROOTS.
CODE = re.compile(r"`([\w.]+/[\w/.]+\.(?:py|smk))(?::([\w.]+))?`")
ROOTS = ("models/", "tests/", "workflow/")
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


@pytest.mark.parametrize("page", ["method.md", "extending.md"])
def test_the_files_and_functions_that_a_page_names_exist(page):
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    made = set(re.findall(r"^```python (\S+)$", text, re.M))  # files that the page itself shows
    references = [reference for reference in CODE.findall(text) if reference[0] not in made]
    assert len(references) > 20
    for name, function in references:
        path = REPOSITORY / name if name.startswith(ROOTS) else REPOSITORY / "workflow" / "carpose" / name
        assert path.is_file(), name
        code = path.read_text(encoding="utf-8")
        for part in filter(None, function.split(".")):
            assert re.search(rf"^ *(def|class) {part}\b", code, re.M), f"{name}:{function}"


def rules(*patterns: str) -> set[str]:
    """The names of the rules in these Snakefiles."""
    text = "\n".join((REPOSITORY / name).read_text(encoding="utf-8") for name in files(*patterns))
    return set(re.findall(r"^ *rule (\w+):", text, re.M))


def test_the_rules_that_pages_name_exist():
    """Pages name rules after -R; running.md has all of them beside the targets that they make."""
    text = "\n".join((REPOSITORY / page).read_text(encoding="utf-8") for page in files("*.md"))
    after_option = set(re.findall(r"-R ([a-z]\w*)", text))
    assert after_option and after_option <= rules("Snakefile", "*.smk")
    running = (REPOSITORY / "docs" / "running.md").read_text(encoding="utf-8")
    table = running.partition("by these rules |\n")[2].partition("\n\n")[0]
    named = {
        name
        for line in table.splitlines()[1:]
        for cell in line.split(" | ")[::2]  # targets and rules
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert named == rules("Snakefile", "workflow/rules/*.smk")
