"""A reader of pages, which finds what is wrong with one."""

import base64
import re
from html.parser import HTMLParser

# Of text on its background, WCAG 2.2 at level AA.
CONTRAST = 4.5

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A page, read and checked: tags close each other, pictures have texts, nothing runs."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.headings, self.pictures = [], [], [], [], []
        self.heads, self.text, self.cells, self.tags = [], "", 0, set()
        assert text.startswith("<!doctype html>")
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert {link[1:] for link in self.links if link.startswith("#")} <= set(self.ids)
        assert all(re.match("#|data:,", link) for link in self.links)
        assert self.headings[:1] == [1]
        assert self.headings.count(1) == 1
        assert all(b - a <= 1 for a, b in zip(self.headings, self.headings[1:], strict=False))
        assert all(self.pictures)
        assert all(scope in ("row", "col") for scope in self.heads)
        assert {"html", "head", "title", "main", "h1"} <= self.tags
        assert not self.tags & {"script", "iframe", "object", "embed", "form", "img"}

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes)
        assert not any(name.startswith("on") for name in given)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "html":
            assert given["lang"] == "en"
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src") if name in given]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "svg":
            self.pictures.append(given["role"] == "img" and given["aria-label"].strip())
        if tag == "th":
            self.heads.append(given["scope"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


# Texts whose colour is too near to that of what is behind them, by WCAG's formula.
FAINT = """
const light = (c) => { const v = c.map((x) => x / 255).map((x) =>
  x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
const numbers = (s) => s.match(/[\\d.]+/g).map(Number);
const behind = (e) => { for (; e; e = e.parentElement) {
  const c = numbers(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll("body *")].filter((e) =>
  [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).filter((e) => {
  const style = getComputedStyle(e), ink = e.closest("svg") ? style.fill : style.color;
  const [low, high] = [light(numbers(ink)), light(behind(e))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05) < 4.5; }).map((e) => e.outerHTML.slice(0, 200));
"""

SMALL_TEXT = """
return [...document.querySelectorAll("svg text")].map((e) => {
  const box = e.ownerSVGElement; return 13 * box.getBoundingClientRect().width / 340; });
"""


def shown(driver, file, width):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    driver.get(file.as_uri())
    return driver


def require_fit(driver, file):
    """Look at a page on a desk, a phone, a small phone, and paper."""
    driver.get_log("browser")
    for width in (1280, 390, 320):
        page = shown(driver, file, width)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        assert page.execute_script(FAINT) == []
        assert all(size >= 11.0 for size in page.execute_script(SMALL_TEXT))
        inside = "return [...document.querySelectorAll('svg')].map((e) => {"
        inside += " const a = e.getBBox(), b = e.viewBox.baseVal;"
        inside += " return a.x >= 0 && a.x + a.width <= b.width && a.y + a.height <= b.height; })"
        assert all(page.execute_script(inside))
    assert driver.get_log("browser") == []
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    paper = driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    assert base64.b64decode(paper["data"]).startswith(b"%PDF")
