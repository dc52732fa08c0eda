"""What all our pages have in common: one file of HTML that needs no other and no network, its styles and its scripts.

A content policy in the page keeps the browser from loading anything else and from running any script but ours, should
a name ever be taken for more than text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """A part of a page.

    Attributes:
        name: Its anchor.
        heading: What stands above it.
        content: Its HTML, piece by piece, made when it is its turn.
    """

    name: str
    heading: str
    content: Iterable[str]


def document(
    *,
    title: str,
    summary: Sequence[str],
    sections: Sequence[Section],
    style: str = "",
    script: str = "",
    images: str = "data:",
    data: Iterable[str] = (),
) -> Iterator[str]:
    """A page of HTML, line by line, so that a large one need not be in memory at once.

    Args:
        title: What it is about.
        summary: Lines below the title, as text.
        sections: Its parts, the most important first.
        style: What is added to the styles of all pages.
        script: What runs beside the sorting of tables.
        images: Where the browser may take pictures from, as the policy has it.
        data: HTML behind the parts, which is not seen.
    """
    links = "".join(f'<li><a href="#{one.name}">{escape(one.heading)}</a></li>' for one in sections)
    running = SORTING + script
    policy = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src 'sha256-{digest(running)}'"
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield '<head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(title)}</title>"
    yield f"<style>{STYLE}{style}</style></head>"
    yield "<body>"
    yield f'<a class="skip" href="#{sections[0].name}">Skip to the {escape(sections[0].heading.lower())}</a>'
    yield f"<header><h1>{escape(title)}</h1>"
    yield from (f"<p>{escape(line)}</p>" for line in summary)
    yield f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav></header>'
    yield "<main>"
    for one in sections:
        yield f'<section id="{one.name}" aria-labelledby="{one.name}-heading">'
        yield f'<h2 id="{one.name}-heading">{escape(one.heading)}</h2>'
        yield from one.content
        yield "</section>"
    yield "</main>"
    yield from data
    yield f"<script>{running}</script>"
    yield "</body>"
    yield "</html>"
    yield ""


def digest(script: str) -> str:
    """What a content policy calls a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


STYLE: Final = """
:root{--paper:#fafaf8;--ink:#202124;--faint:#5b6066;--rule:#d6d6d0;--card:#fff;--heat:#0b4f9c;--on-heat:#fff;
--bar:#cfe0f5;--link:#0b57a4;--warn:#fff4d6}
@media (prefers-color-scheme:dark){:root{--paper:#17181a;--ink:#e9e9e6;--faint:#a9adb3;--rule:#3c3f43;--card:#212326;
--heat:#8fc1ff;--on-heat:#10151c;--bar:#23405f;--link:#8fc1ff;--warn:#3d3419}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
header,main{max-width:72rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.25;margin:1.5rem 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.5rem 0 .75rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin:1.5rem 0 .25rem;overflow-wrap:anywhere}
p{margin:.25rem 0 .75rem;overflow-wrap:anywhere}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.small,.interval,figcaption{color:var(--faint);font-size:.875rem}.interval{display:block}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.5rem}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;list-style:none}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.75rem;margin:0}
.cards>div{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.75rem 1rem}
.cards dt{font-weight:600}.cards dd{margin:0}.cards strong{font-size:1.6rem;font-variant-numeric:tabular-nums}
.cards>div:first-child strong{font-size:2.2rem}.cards p{margin:.25rem 0 0}
.warnings li{background:var(--warn);padding:.25rem .5rem;margin:.25rem 0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;background:var(--card)}
th,td{padding:.3rem .75rem;border-bottom:1px solid var(--rule);text-align:left;font-weight:400}
thead th{font-weight:600;vertical-align:bottom;white-space:nowrap}
tbody th{min-width:7rem;max-width:22rem;overflow-wrap:anywhere}
td.number,th.number{text-align:right;white-space:nowrap}
td.bar{min-width:7rem;background:linear-gradient(var(--bar),var(--bar)) left/var(--share) 100% no-repeat}
thead button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:0;cursor:pointer}
thead button::after{content:" \\2195";color:var(--faint)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
article{border-top:1px solid var(--rule);margin-top:1rem}
.four{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.5rem;align-items:start}
figure{margin:0}figure img{width:100%;height:auto;display:block;background:var(--rule)}
.missing{padding:1rem;border:1px dashed var(--rule)}
.legend{list-style:none;padding:0;margin:.5rem 0;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem}
.legend li{overflow-wrap:anywhere}
.swatch{display:inline-block;width:.9em;height:.9em;margin-right:.4em;vertical-align:-.08em;border:1px solid var(--ink)}
.bare{background:none}
.hatched{background:repeating-linear-gradient(135deg,#808080 0 2px,transparent 2px 5px)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem}.facts dd{margin:0;overflow-wrap:anywhere}
@media (max-width:36rem){.facts{grid-template-columns:1fr}.facts dt{font-weight:600}th,td{padding:.3rem .5rem}}
@media print{.scroll{overflow:visible}article{break-inside:avoid}}
"""

SORTING: Final = """
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  table.querySelectorAll('thead th').forEach((head, place) => {
    if (body.querySelector(`td:nth-child(${place + 1}) button`)) return;
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') === 'descending';
      for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const value = row => {
        const cell = row.cells[place], number = cell.dataset.value;
        return number === undefined ? cell.textContent : number === '' ? -Infinity : Number(number);
      };
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        return typeof x === 'number' ? x - y || 0 : x.localeCompare(y);
      });
      body.append(...(up ? rows : rows.reverse()));
    });
  });
}
"""
