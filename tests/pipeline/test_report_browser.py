"""The report in a real headless browser: complete and without errors in light and dark mode and on a phone's screen size."""

from pathlib import Path

import pytest

from nemo_srlm.report.write import write_report
from tests import browser
from tests.browser import visit
from tests.synthetic_run import build

pytestmark = pytest.mark.skipif(browser.path() is None, reason="no Chromium here (Debian: apt-get install chromium)")

VIEWS = {
    "light": {"width": 1200},
    "dark": {"width": 1200, "dark": True},
    "phone": {"width": 390, "height": 844, "phone": True},
    "small phone, dark": {"width": 320, "height": 640, "phone": True, "dark": True},
}
# JavaScript: elements that overlap a neighbour or extend beyond the page, as text; scrollable boxes may be wider.
OVERFLOW = """(() => {
  const free = ".scroll, pre, .mono, svg, [hidden], details:not([open])";
  const wide = [...document.querySelectorAll("main *, header *")].filter(
    (e) => !e.closest(free) && e.getBoundingClientRect().right > innerWidth + 1);
  return wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 120));
})()"""
OVERLAP = """(() => {
  const found = [];
  for (const svg of document.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
    const boxes = texts.filter(([, b]) => b.width);
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const [s, a] = boxes[i], [t, b] = boxes[j];
      const across = a.left < b.right - 1 && b.left < a.right - 1, down = a.top < b.bottom - 2 && b.top < a.bottom - 2;
      if (across && down) found.push(`${svg.ariaLabel}: ${s} over ${t}`);
    }
  }
  return found;
})()"""
# JavaScript: WCAG contrast of every visible text with its background; pages, cards and bars have opaque backgrounds.
CONTRAST = """(() => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return [...m, 1].slice(0, 4); };
  const part = (v) => ((v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c;
    }
    return [255, 255, 255, 1];
  };
  const low = new Set();
  for (const e of document.querySelectorAll("body *")) {
    const style = getComputedStyle(e), size = parseFloat(style.fontSize);
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !size || !e.getClientRects().length || e.closest("title, desc, script, style, [hidden], .unseen")) continue;
    const a = light(parse(e.closest("svg") ? style.fill : style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < (size >= 24 ? 3 : 4.5)) low.add(`${ratio.toFixed(2)} ${e.className} ${e.textContent.trim().slice(0, 40)}`);
  }
  return [...low];
})()"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    runs = [
        build(root),
        build(root, "control", "random"),
        build(root, "upper", "oracle"),
        build(root, "positives", "sft_only"),
    ]
    part, real = build(root, "part", until=0), build(root, "real", world=False)
    chosen = {"one": runs[:1], "four": runs, "part": [part], "real": [real], "empty": [build(root, "empty", until=-1)]}
    return {name: write_report(dirs, root / f"{name}.html") for name, dirs in chosen.items()}


@pytest.mark.parametrize("view", list(VIEWS))
def test_nothing_runs_out_of_the_page_lies_over_something_or_is_too_pale(reports: dict[str, Path], view: str):
    async def look(page: browser.Page) -> None:
        width = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        assert await page.evaluate(OVERFLOW) == []
        assert await page.evaluate(OVERLAP) == []
        assert await page.evaluate(CONTRAST) == []

    visit(list(reports.values()), VIEWS[view], look)


@pytest.mark.parametrize("view", ["light", "phone"])
def test_the_fields_benchmarks_stand_beside_the_papers_numbers(reports: dict[str, Path], view: str):
    async def look(page: browser.Page) -> None:
        text = await page.evaluate("document.querySelector('#benchmarks').innerText")
        for wanted in (
            "AlpacaEval 2", "9.94", "paper 9.94", "length-controlled", "MT-Bench", "paper 7.25", "NLP benchmarks", "M0",
            "paper 68.9%", "ultrafeedback_test_prefs.parquet", "KL to the previous policy", "0.0310",
            "Choice of checkpoints", "the previous one is kept",
        ):  # fmt: skip
            assert wanted in text, wanted

    visit([reports["real"]], VIEWS[view], look)


@pytest.mark.parametrize("view", ["light", "phone"])
def test_the_answer_is_on_the_first_screen(reports: dict[str, Path], view: str):
    async def look(page: browser.Page) -> None:
        bottom = "document.querySelector('{}').getBoundingClientRect().bottom <= innerHeight"
        assert await page.evaluate(bottom.format(".headline"))
        assert await page.evaluate(bottom.format(".tile .big"))
        text = await page.evaluate("document.querySelector('#summary').innerText")
        for wanted in (
            "M3 follows instructions better than M1",
            "3.75",
            "Correct answers",
            "Judging",
            "Response length",
        ):
            assert wanted in text

    visit([reports["one"]], VIEWS[view], look)


def test_the_sample_browser_pages_through_iterations_and_kinds(reports: dict[str, Path]):
    async def look(page: browser.Page) -> None:
        visible = "[...document.querySelectorAll('.sample')].filter((s) => !s.hidden)"
        shown = f"{visible}.map((s) => s.dataset.iteration + s.dataset.kind)"
        place = "document.getElementById('place').textContent"
        assert len(await page.evaluate(shown)) == 1
        assert (await page.evaluate(place)).startswith("1 of ")
        await page.evaluate("document.getElementById('previous').click()")
        total = (await page.evaluate(place)).split()[-1]
        assert await page.evaluate(place) == f"{total} of {total}"
        for selector, value, expected in (("kind", "none", "1none"), ("iteration", "2", "2none")):
            await page.evaluate(
                f"(() => {{ const s = document.getElementById('{selector}'); s.value = '{value}';"
                " s.dispatchEvent(new Event('change')); })()"
            )
            assert await page.evaluate(shown) == [expected]
        text = await page.evaluate("document.querySelector('.sample:not([hidden])').innerText")
        assert "no pair: " in text

    visit([reports["one"]], VIEWS["light"], look)


def test_the_theme_button_turns_the_page_dark_and_light_again(reports: dict[str, Path]):
    async def look(page: browser.Page) -> None:
        colour = "getComputedStyle(document.body).backgroundColor"
        before = await page.evaluate(colour)
        await page.evaluate("document.getElementById('theme').click()")
        assert await page.evaluate(colour) != before
        assert await page.evaluate(CONTRAST) == []
        await page.evaluate("document.getElementById('theme').click()")
        assert await page.evaluate(colour) == before

    visit([reports["one"]], VIEWS["light"], look)


def test_every_chart_has_a_name_and_marks_and_text_is_not_run(reports: dict[str, Path]):
    async def look(page: browser.Page) -> None:
        charts = await page.evaluate(
            "[...document.querySelectorAll('svg')].map((s) => [s.ariaLabel, s.querySelectorAll('circle, path, rect').length])"
        )
        assert len(charts) >= 15
        assert all(label and marks for label, marks in charts)
        assert await page.evaluate("document.querySelectorAll('img, main b > b').length") == 0
        assert await page.evaluate("document.querySelector('#samples').textContent.includes('<b>bold</b>')")

    visit([reports["one"]], VIEWS["light"], look)
