"""Docstrings cite the theory by section: each cited section exists, and is about its subject."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THEORY = ROOT / "validation" / "book" / "theory.md"

CITATION = re.compile(
    r"theory(?:\.md\)?|'s)[^.]{0,60}?\bsections? (\d+(?:(?:, | and | to |, and )\d+)*)",
    re.IGNORECASE,
)

# What the cited section has to have in bold.
METHODS = {
    "adaptive_model_design.py": "AMD",
    "bi_level_actor_critic.py": "Bi-AC",
    "boltzmann_covariance.py": "BC-HG",
    "hpgd.py": "HPGD",
    "naive.py": "Naive policy gradient",
    "neumann.py": "Truncated Neumann series",
    "penalty.py": "Value-gap penalty",
    "regularised_actor_critic.py": "Regularised actor-critic",
    "score_function.py": "Score function",
    "sobirl.py": "SoBiRL",
    "zero_order.py": "Zero-order",
}


def sections():
    parts = re.split(r"^## (\d+)\. ", THEORY.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def cited(text):
    """Find the numbers of the sections that a text cites."""
    plain = re.sub(r"\s*\n[ #]*", " ", text)
    for match in CITATION.finditer(plain):
        numbers = [int(number) for number in re.findall(r"\d+", match.group(1))]
        yield from range(numbers[0], numbers[1] + 1) if " to " in match.group(1) else numbers


def all_citations():
    files = [ROOT / "README.md", *(ROOT / "validation" / "book").rglob("*.md")]
    for folder in ("tabular_bilevel", "tests", "validation"):
        files += (ROOT / folder).rglob("*.py")
    return {
        path.relative_to(ROOT): found
        for path in files
        if path != Path(__file__) and (found := set(cited(path.read_text(encoding="utf-8"))))
    }


def test_every_cited_section_exists():
    there, found = sections(), all_citations()
    assert len(found) > 25
    assert {path: found[path] - set(there) for path in found if found[path] - set(there)} == {}


def test_no_section_is_missing_or_cited_by_nobody():
    there = sections()
    assert list(there) == list(range(1, len(there) + 1))
    assert set(there) == set.union(*all_citations().values())


def test_the_theory_refers_to_sections_of_its_own():
    there, text = sections(), " ".join(sections().values())
    named = re.findall(r"sections? (\d+)(?: and (\d+))?", text)
    assert {int(number) for pair in named for number in pair if number} <= set(there)


def test_the_file_of_a_method_cites_the_section_that_has_it():
    there = sections()
    files = {path.name: path for path in (ROOT / "tabular_bilevel/estimators").glob("*.py")}
    assert set(METHODS) <= set(files)
    for name, heading in METHODS.items():
        text = files[name].read_text(encoding="utf-8")
        assert any(f"**{heading}" in there[number] for number in cited(text)), name


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("as in theory.md section 99", [99]),
        ("(theory.md sections 2 to 4)", [2, 3, 4]),
        ("from theory.md sections 2, 4 and 6.", [2, 4, 6]),
        ("theory.md\n    # section 7", [7]),
        ("The [theory](theory.md) has it in section 12.", [12]),
        ("in theory, section by section", []),
    ],
)
def test_citations_are_found(text, numbers):
    assert list(cited(text)) == numbers


def test_a_wrong_citation_would_fail():
    assert not set(cited("as in theory.md section 99")) <= set(sections())
