"""The page says everything, says it safely, needs nothing beside itself, and is the same for the same data."""

import re
from html.parser import HTMLParser

import pytest

from nano_think.report import ReportData, headline, render, tables

SECTIONS = ("results", "training", "routing", "samples", "data", "sizes", "times", "configuration")
HOSTILE = "</p><script>alert(1)</script>$\\frac & \"quoted\" 'too'"
VOID = {"meta", "link", "br", "use"}


class Reader(HTMLParser):
    """Tags with their attributes, in order; every element closed is checked on the way."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, (tag, self.getpos())


@pytest.fixture(scope="module")
def page(make) -> str:
    return render(make())


def test_every_section_and_its_figures(page):
    ids = {attributes.get("id") for _, attributes in Reader(page).tags}
    assert set(SECTIONS) <= ids
    for text in (
        "2.076 bits per byte, calibrated as all models here: 2.3% lower than its best single expert, the transformer "
        "(2.125; 95% interval −2.7% to −1.9%)",
        "1.1% lower than the plain average (2.100); memory off.",
        "800k tokens, 0.51 passes over the 1.56M tokens",
        "equal training FLOPs: 1.990; the mixture is 4.3% higher than it; 95% interval +3.9% to +4.7%.",
        "2.031", "2.079",  # memory and its control
        "2,893,827", "9 min 58 s", "cached",
        "median 512 B to 1 KiB", "bytes per token", "3.81",
        "CC BY-SA 4.0 (Wikipedia contributors)", "PSF-2.0", "13,054", "4,096",
        "pretrain.optim.matrix_rate", "oneDNN (error 2e-7)", "2.13.0",
        "seed 1, temperature 0.8", "2026-03-14 09:26 UTC",
    ):  # fmt: skip
        assert text in page, text


def test_best_of_a_row_is_marked(make):
    data = make()
    data.results["domains"]["code"]["experts"]["diffuser"] = 1.234
    table = tables.results(data)
    assert table and [cell.text for cell in table.rows[0] if cell.best] == ["1.234"]


def test_best_is_marked_for_eye_and_ear(page):
    row = re.search(r'<th scope="row" class="text">code</th>.*?</tr>', page, re.DOTALL)
    assert row and re.findall(r"<strong>(.*?)</strong>(.*?)</td>", row[0]) == [
        ("2.032", '<span class="unseen"> (best)</span>')
    ]


def test_sign_is_told_as_it_is(make):
    plain = make().results | {"calibrated": None, "ablation": None}
    worse = headline.headline(make(results=plain | {"bits_per_byte": 2.2}))
    assert "3.5% higher than its best single expert" in worse
    assert "4.8% higher than the plain average" in worse
    assert "than" not in headline.headline(make(results={"bits_per_byte": 2.2}))
    assert "not measured in this run" in headline.dense(make(results=plain))
    data = make(results=plain | {"dense": 2.0})
    assert headline.dense(data).endswith("FLOPs: 2.000; the mixture is 3.8% higher than it.")
    table = tables.results(data)
    assert table and "dense" in table.head


def test_passes_of_unequal_budgets_are_told_apart(make):
    curves = {name: [{"step": 1, "tokens": seen, "loss": 3.0}] for name, seen in (("diffuser", 10), ("toy", 30))}
    data = make(["diffuser", "toy"], {"mine": 1.0}, curves=curves, tokens={"train": {"tokens": 20}})
    assert headline.regime(data).endswith("the 20 tokens of the train split: diffuser 0.50 and toy 1.50.")


def test_nothing_is_loaded_and_nothing_runs(page):
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    for tag, attributes in Reader(page).tags:
        assert tag not in {"script", "iframe", "img", "object", "embed"}
        assert not {name for name in attributes if name.startswith("on")}
        for name in ("src", "href", "xlink:href", "data"):
            value = attributes.get(name) or "#"
            # A link in the table of sources is followed by a reader, never by the page.
            followed = tag == "a" and value == "https://example.org/kjv"
            assert followed or value.startswith(("#", "data:,")), (tag, value)
    assert page.count("http://") == 0


def test_untrusted_text_is_only_text(make):
    given = {"text": HOSTILE, "weights": [0.2, 0.3, 0.5]}
    samples = [{"prompt": HOSTILE, "text": HOSTILE, "tokens": [given], "seed": 1, "temperature": 1.0}]
    source = {"name": HOSTILE, "domain": HOSTILE, "licence": HOSTILE, "origin": "javascript:alert(1)"}
    hostile = make(
        domains={HOSTILE: 1.0, "x": 1.1}, samples=samples, sources=[source], preset=HOSTILE, config={HOSTILE: HOSTILE}
    )
    page = render(hostile)
    Reader(page)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert 'href="javascript' not in page


def test_text_keeps_its_spaces(make):
    tokens = [{"text": text, "weights": [1.0, 0.0, 0.0]} for text in ("\n    a", " ", "b\n\n")]
    page = render(make(samples=[{"prompt": " p ", "text": "", "tokens": tokens}], results={}, curves={}))
    said = re.search(r'<p class="said">(.*?)</p>', page, re.DOTALL)
    assert said and re.sub(r"<[^>]+>", "", said[1]) == " p \n    a b\n\n"
    assert 'title="diffuser 1.00, state space 0.00, transformer 0.00"' in said[1]


def test_a_sample_without_weights_is_shown_plain(make):
    page = render(
        make(
            samples=[{"prompt": "Once", "text": " upon a time", "tokens": None, "seed": 490752123}],
            results={},
            curves={},
        )
    )
    assert '<span class="prompt">Once</span> upon a time</p>' in page
    assert "seed 490752123" in page


def test_same_data_same_page_and_ids_are_unique(make, page):
    assert render(make()) == page
    ids = [attributes["id"] for _, attributes in Reader(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'(?:url\(|href=")#([\w-]+)', page):
        assert reference in ids


def test_tables_are_named_and_scoped(page):
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) > 10
    for table in tables:
        assert re.search(r"<caption[^>]*><span>[^<]+</span></caption>", table)
        assert 'scope="col"' in table and 'scope="row"' in table
    assert page.count('role="img" aria-label=') == page.count("<svg")


def test_colours_follow_the_page(page):
    pictures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not set(re.findall(r"#[0-9a-f]{6}\b", pictures)) - {"#14181d"}
    assert "font-family" not in pictures


def test_nothing_known_degrades_to_sentences():
    page = render(ReportData(preset="nano", created="", results=None, curves=None, samples=None))  # type: ignore[arg-type]
    Reader(page)
    for section in SECTIONS:
        assert f'<section id="{section}">' in page
    assert "This run holds no evaluation of the mixture." in page
    assert "Memory: not measured in this run." in page
    assert "<svg" not in page and "<table" not in page


@pytest.mark.parametrize("changes", [
    {"results": {"bits_per_byte": 2.0, "experts": {}, "uniform": None, "dense": None, "memory": None, "domains": {}}},
    {"results": {"bits_per_byte": float("nan"), "experts": {"diffuser": None}, "domains": {"code": {}}}},
    {"curves": {"router": [], "embedding": [{"step": 1, "tokens": 0, "loss": float("nan")}]}},
    {"curves": {"transformer": [{"step": 1, "tokens": 0, "loss": 3.5}]}},
    {"times": {"ingest": {"seconds": None, "fresh": True}}, "seconds": None, "parameters": {"whole": 0}},
    {"sources": [{}], "splits": {"train": {}}, "tokens": {"train": {"tokens": 0}}, "artifacts": {"ingest": {}}},
])  # fmt: skip
def test_holes_are_no_faults(make, changes):
    Reader(render(make(**({"results": {}, "curves": {}} | changes))))


def test_what_was_read_instead_is_told_at_the_top_and_in_the_tables(make):
    """Whoever reads only the headline must know that the text is not the one that the preset names."""
    sources = [{"name": "kjv", "domain": "theology", "stands_in_for": ["a & b", "c"]}, {"name": "mine"}]
    told = "Not the text that was asked for: kjv is read in the place of a &amp; b and c; d is left out."
    page = render(make(sources=sources, left_out=[{"name": "d", "domain": "x", "why": "the hub is <silent>"}]))
    Reader(page)
    assert page.count(told) == 2 and page.index(told) < page.index("<main>")
    assert "kjv, in the place of a &amp; b and c</th>" in page
    assert "the hub is &lt;silent&gt;" in page
    assert headline.text(make()) == "" and "asked for and left out" not in render(make())


def test_domains_add_up_over_the_splits(make):
    """Bytes per token leave out the start tokens, which stand for no bytes."""
    half = {"tokens": 110, "documents": 10, "bytes": 300}
    splits = {split: half | {"domains": {"a": half}} for split in ("train", "test")}
    table = tables.domains(make(splits=splits, tokens=splits))
    assert table and [[cell.text for cell in row] for row in table.rows] == [
        ["a", "20", "600 B", "220", "3.00"],
        ["all", "20", "600 B", "220", "3.00"],
    ]
    table = tables.domains(make(splits=splits, tokens={}))
    assert table and [cell.text for cell in table.rows[0]][3:] == ["–", "–"]


def test_four_experts_and_one_domain(make):
    page = render(make(["diffuser", "state_space", "toy", "transformer"], {"mine": 1.0}))
    Reader(page)
    assert page.count('<span class="t e3" style="--a:.4">transformer</span>') == 1
    assert '<th scope="col" class="number"><span>toy</span></th>' in page
