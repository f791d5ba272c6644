"""The site has every public name once, and its formulas are set as TeX would set them."""

import html
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import tabular_bilevel as tb

pytest.importorskip("sphinx")
import latex2mathml.converter
from docutils import nodes

BOOK = Path(__file__).parents[1] / "validation" / "book"


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("conf_of_the_book", BOOK / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_public_name_is_on_one_page(conf, tmp_path):
    folder = tmp_path / "reference" / "names"
    folder.mkdir(parents=True)
    (folder / "gone.rst").write_text("of a group that has another name now")
    conf.write_names(SimpleNamespace(srcdir=tmp_path))
    pages = {page.stem: page.read_text() for page in folder.iterdir()}
    listed = re.findall(r"toctree::\n   :hidden:\n\n((?:   .*\n)+)", pages["index"])[0].split()
    assert sorted([*listed, "index"]) == sorted(pages)
    documented = re.findall(r"auto\w+:: tabular_bilevel\.(\S+)", "".join(pages.values()))
    assert set(tb.__all__) <= set(documented)
    assert len(set(documented)) == len(documented)
    assert "adapters.jax" in documented  # of a module that exports nothing itself


@pytest.mark.parametrize(
    ("formula", "signs"),
    [
        ("-1", [True]),
        ("1 - 2", [False]),
        ("(-4, +3)", [True, True]),
        ("x = -1", [True]),
        ("f(x) - 1", [False]),
        ("V_F - V^2 + 1", [False, False]),
        (r"1,\; -1", [True]),
        ("10^{-3}", [True]),
    ],
)
def test_signs_are_told_from_sums(conf, formula, signs):
    row = latex2mathml.converter.convert_to_element(formula)
    conf.spaced(row)
    found = [part for part in row.iter("mo") if html.unescape(part.text) in conf.SIGNS]
    assert [part.get("form") == "prefix" for part in found] == signs


def test_functions_stand_apart(conf):
    row = latex2mathml.converter.convert_to_element(r"2\ln 6 + \ln(x)")
    conf.spaced(row)
    apart = [part.get("rspace") for part in row.iter("mo") if part.text == "ln"]
    assert apart == ["0.17em", "0"]


@pytest.mark.parametrize(
    ("formula", "words"), [(r"\unheard{x}", "no MathML"), (r"a & b", "no MathML"), ("x < 1", "")]
)
def test_what_cannot_be_set_is_told(conf, formula, words, monkeypatch):
    told = []
    logger = SimpleNamespace(warning=lambda *said, location: told.append(said))
    monkeypatch.setattr(conf.logging, "getLogger", lambda name: logger)
    translator = SimpleNamespace(body=[])
    with pytest.raises(nodes.SkipNode):
        conf.as_mathml(translator, nodes.math(formula, formula))
    assert bool(told) == bool(words)
    assert translator.body[0].startswith("<math")
    assert "<<" not in translator.body[0]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tb.hypergradient", "hypergradient"),
        ("tb.problems.fork()", "problems.fork"),
        ("tb.Episodes(1, steps=3)", "Episodes"),
        ("problem.model(theta)", None),
    ],
)
def test_names_in_texts_are_links(conf, text, target):
    document = nodes.paragraph("", "", nodes.literal(text, text))
    conf.link_names(SimpleNamespace(env=SimpleNamespace(docname="page")), document)
    links = [
        part["reftarget"]
        for part in document.findall()
        if "reftarget" in getattr(part, "attributes", {})
    ]
    assert links == ([f"tabular_bilevel.{target}"] if target else [])


def test_bars_of_docstrings_are_bars_outside_of_examples(conf):
    lines = ["|V| of theory.md section 4", ">>> print('a|b')", "a|b", "", "f(b|s)"]
    conf.as_markup(None, "function", "f", None, None, lines)
    theory = ":doc:`theory.md section 4 </theory>`"
    assert lines == [rf"\|V\| of {theory}", ">>> print('a|b')", "a|b", "", r"f(b\|s)"]
