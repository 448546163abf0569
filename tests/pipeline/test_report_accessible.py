"""The report for readers who do not see it, who have no pointer, and whose script is another one: in a headless browser."""

from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.report.write import write_report
from tests import browser
from tests.browser import Page, visit
from tests.synthetic_run import build

pytestmark = pytest.mark.skipif(browser.path() is None, reason="no Chromium here (Debian: apt-get install chromium)")
ARABIC, JAPANESE = "اكتب قصيدة قصيرة عن البحر.\n1. short", "海についての短い詩を書いてください。"
VIEW = {"width": 1200}
# WCAG 1.4.11: what carries meaning in a chart has a contrast of 3 with the card behind it
MARKS = """(() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const part = (v) => ((v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const low = new Set();
  for (const e of document.querySelectorAll("svg .dot, svg .curve, svg .bar, svg .whisker")) {
    const style = getComputedStyle(e), card = parse(getComputedStyle(e.closest("figure")).backgroundColor);
    const alpha = e.matches(".whisker") ? Number(style.strokeOpacity) : 1;
    const own = parse(style.stroke).length ? style.stroke : style.fill;
    const seen = parse(own).slice(0, 3).map((v, i) => alpha * v + (1 - alpha) * card[i]);
    const [a, b] = [light(seen), light(card)], ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 3) low.add(`${ratio.toFixed(2)} ${e.parentElement.getAttribute("class")} ${e.getAttribute("class")}`);
  }
  return [...low];
})()"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    run, real = build(root), build(root, "real", world=False)
    path = run / "iter0" / "held_out" / "eval_prompts.jsonl"
    first, second = list(read_records(path, Prompt))[:2]
    write_records(path, [Prompt(first.id, ARABIC, "eval"), Prompt(second.id, JAPANESE, "eval")])
    for responses in run.glob("iter*/eval_responses*/responses.jsonl"):
        write_records(
            responses, [c for c in read_records(responses, Candidate) if c.prompt_id in (first.id, second.id)]
        )
    for directory in {responses.parent for responses in run.glob("iter*/eval_responses*/responses.jsonl")} | {
        path.parent
    }:
        _resize(directory)
    return [write_report([run], root / "one.html"), write_report([real, run], root / "two.html")]


def _resize(directory: Path) -> None:
    """The manifest's sizes and digests are those of the files again."""
    from nemo_srlm.core import manifest, outputs

    done = manifest.read(directory)
    assert done is not None
    (directory / manifest.NAME).unlink()
    fields = {**vars(done), "outputs": outputs.describe(directory, manifest.NAME)}
    manifest.write(directory, manifest.Manifest(**fields))


async def tree(page: Page) -> list[dict[str, Any]]:
    """What a screen reader is given: the nodes of the accessibility tree."""
    await page.call("Accessibility.enable")
    nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    return [node for node in nodes if not node["ignored"]]


def role(node: dict[str, Any]) -> str:
    return str(node["role"]["value"])


def words(node: dict[str, Any], field: str = "name") -> str:
    return str(node.get(field, {}).get("value", ""))


def test_a_screen_reader_gets_every_chart_with_name_and_numbers_and_every_table_with_caption_and_headers(
    reports: list[Path],
):
    async def look(page: Page) -> None:
        await page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        nodes = await tree(page)
        charts = [n for n in nodes if role(n) in ("image", "img") and words(n, "description")]
        assert len(charts) == await page.evaluate("document.querySelectorAll('svg').length") > 0
        assert all(words(n) and any(c.isdigit() for c in words(n, "description")) for n in charts)
        tables = [n for n in nodes if role(n) == "table"]
        assert len(tables) == await page.evaluate("document.querySelectorAll('table').length") > 0
        assert [n for n in tables if not words(n)] == []
        assert await page.evaluate("[...document.querySelectorAll('th:not([scope])')].map((t) => t.outerHTML)") == []
        assert {"columnheader", "rowheader"} <= {role(n) for n in nodes}
        nameless = [
            n for n in nodes if role(n) in ("button", "link", "combobox", "region", "navigation") and not words(n)
        ]
        assert nameless == []

    visit(reports, VIEW, look)


def test_the_keyboard_reaches_every_control_shows_where_it_is_and_works_them(reports: list[Path]):
    async def press(page: Page, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            await page.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text
            )

    async def look(page: Page) -> None:
        wanted = await page.evaluate(
            "[...document.querySelectorAll('a[href], button, select, summary, .scroll')]"
            ".filter((e) => e.checkVisibility()).length"
        )
        seen, pale = 0, []
        for _ in range(wanted):
            await press(page, "Tab", 9)
            found = await page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e);"
                " return [e.tagName, s.outlineStyle, parseFloat(s.outlineWidth), e.outerHTML.slice(0, 80)]; })()"
            )
            seen += found[0] != "BODY"
            if found[1] == "none" or found[2] < 2:
                pale.append(found[3])
        assert seen == wanted
        assert pale == []
        await page.evaluate("document.getElementById('next').focus()")
        await press(page, "Enter", 13, "\r")
        assert (await page.evaluate("document.getElementById('place').textContent")).startswith("2 of ")

    visit(reports[:1], VIEW, look)


@pytest.mark.parametrize("dark", [False, True])
def test_marks_of_charts_stand_out_from_their_card(reports: list[Path], dark: bool):
    async def look(page: Page) -> None:
        assert await page.evaluate(MARKS) == []

    visit(reports, {**VIEW, "dark": dark}, look)


def test_a_prompt_in_arabic_runs_from_the_right_and_one_in_japanese_from_the_left(reports: list[Path]):
    async def look(page: Page) -> None:
        await page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        # the distances of a text from the left and the right edge of its box
        shown = await page.evaluate("""[...document.querySelectorAll('.asked, .same-prompt > .text')].map((e) => {
          const range = document.createRange(); range.selectNodeContents(e);
          const box = e.getBoundingClientRect(), runs = [...range.getClientRects()].filter((r) => r.width > 1);
          const left = Math.min(...runs.map((r) => r.left)), right = Math.max(...runs.map((r) => r.right));
          return [e.textContent, left - box.left, box.right - right];
        })""")
        edges = {text: (left, right) for text, left, right in shown}
        assert edges[ARABIC][1] < 40 < edges[ARABIC][0]
        assert edges[JAPANESE][0] < 40 < edges[JAPANESE][1]
        missing = await page.evaluate(
            "document.querySelectorAll('.text:not([dir=auto]), .asked:not([dir=auto])').length"
        )
        assert missing == 0

    visit(reports[:1], VIEW, look)
