"""The pages in docs/: lines and sentences are short, what they name is there, and the manual has every option."""

import re
from pathlib import Path

import click
import pytest

import cli as program
from tests.helpers import REPO

DOCS = REPO / "docs"
OURS = ("ARCHITECTURE", "COMPILER", "DESIGN", "MANUAL", "SEED_SYSTEM", "TRUST")
"""Pages that are written to be read from the top: no line of theirs is long, no sentence of prose either."""
PAGES = sorted(p.stem for p in DOCS.glob("*.md"))
LINE, SENTENCE = 120, 30


def prose(text):
    """Paragraphs without code, tables and headings, each on one line."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    kept = [line if not re.match(r"    |[|#!<]", line) else "" for line in text.splitlines()]
    joined = re.sub(r"\n(?=- |\d+\. )", "\n\n", "\n".join(kept))
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", joined) if part.strip()]


@pytest.mark.parametrize("page", [*OURS, "../CONTRIBUTING"])
def test_lines_are_short(page):
    assert [line for line in (DOCS / f"{page}.md").read_text().splitlines() if len(line) > LINE] == []


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_prose_are_short(page):
    lines = (DOCS / f"{page}.md").read_text().splitlines()
    assert [line for line in lines if len(line) > LINE and not line.startswith("|")] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE", "DESIGN", "MANUAL", "SEED_SYSTEM", "TRUST"])
def test_sentences_are_short(page):
    sentences = [s for part in prose((DOCS / f"{page}.md").read_text()) for s in re.split(r"(?<=[.:;?!])\s", part)]
    assert len(sentences) > 10
    assert [s for s in sentences if len(s.split()) >= SENTENCE] == []


@pytest.mark.parametrize("page", [*OURS, "../CONTRIBUTING", "GLOSSARY"])
def test_files_that_a_page_names_are_there(page):
    text = (DOCS / f"{page}.md").read_text()
    named = set(re.findall(r"\b((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|sh|c|h|md)|[A-Z_]+\.md)\b", text))
    folders = set(re.findall(r"\b((?:train|infer|export|compiler|encoder|benchmarks|frames)/[a-z_/]+/)", text))
    there = {name for name in named | folders if (REPO / name).exists() or (DOCS / name).exists()}
    assert named | folders == there


def commands(group=program.main, words=()):
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from commands(each, (*words, name))
        else:
            yield " ".join((*words, name)), each


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_the_manual_has_every_option(name, command):
    sections = re.split(r"^## ", (DOCS / "MANUAL.md").read_text(), flags=re.M)
    (section,) = (s for s in sections if s.splitlines()[0] == name)
    told = set(re.findall(r"^\| `(--[a-z0-9-]+)", section, re.M))
    options = {p.opts[-1] for p in command.params if isinstance(p, click.Option)} - {"--json"}
    assert told == options
    for row in re.findall(r"^\| `(--[^`]*)` \| ([^|]*) \|", section, re.M):
        (parameter,) = (p for p in command.params if row[0].split()[0] in p.opts)
        default = parameter.to_info_dict()["default"]
        if isinstance(default, str | int | float | Path) and not isinstance(default, bool) and str(default):
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert row[1].strip().replace(",", "") in (shown.replace(",", ""), str(default)), row


def test_the_manual_names_every_command_and_study():
    text = (DOCS / "MANUAL.md").read_text()
    assert {name for name, _ in commands()} <= set(re.findall(r"^## (.+)$", text, re.M))
    table = text[text.index("## Studies") :]
    runnable = {p.stem for p in (REPO / "benchmarks").glob("*.py") if "__main__" in p.read_text()} - {"speed"}
    assert runnable <= set(re.findall(r"[a-z_0-9]+", table))


def test_no_page_names_a_folder_of_the_seed():
    for page in PAGES:
        if page != "LOG":
            assert "../shared" not in (DOCS / f"{page}.md").read_text(), page


def test_the_log_has_a_summary_of_twenty_lines():
    head = (DOCS / "LOG.md").read_text().partition("\n## ")[0]
    assert len([line for line in head.splitlines() if line.startswith("- ")]) == 20
