"""The style sheet of the page of an evaluation: one column, light and dark.

Text has a contrast of at least 4.5 to what is behind it, lines and bars of at least 3
(WCAG 2, level AA); the tests compute both.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f4f6f8; --ink: #1f2933; --soft: #55606c; --line: #d5dbe1;
  --rail: #e6eaee; --bar: #0072b2; --right: #00734f; --wrong: #b3321a; --link: #005a91;
  --curve-0: #0072b2; --curve-1: #b3321a; --curve-2: #00734f; --curve-3: #9c4f7e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14191f; --panel: #1e252d; --ink: #e6ebf0; --soft: #a3afbb;
    --line: #39434e; --rail: #2b343d; --bar: #56b4e9; --right: #4cc9a0;
    --wrong: #ff8f75; --link: #7cc4f2;
    --curve-0: #56b4e9; --curve-1: #ff8f75; --curve-2: #4cc9a0; --curve-3: #e39ac6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 1.25rem; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 68ch; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 16px 0 0; }
section { margin-top: 44px; }
bdi, td, th { overflow-wrap: break-word; }
.facts, .bars { overflow-wrap: anywhere; }
.facts td, .facts bdi, .bars bdi, figcaption bdi { overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.pair { display: flex; flex-wrap: wrap; gap: 20px 40px; align-items: flex-start; }
.pair > * { flex: 1 1 400px; min-width: 0; max-width: 100%; }
.scroll { overflow-x: auto; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }

table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 6px; color: var(--soft); }
th, td { padding: 6px 14px 6px 0; text-align: left; vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--soft); border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.headline { font-size: 1.25rem; font-weight: 700; line-height: 1.3; }
.metrics th, .metrics td { padding-right: 28px; vertical-align: baseline; }
.metrics thead th { white-space: normal; vertical-align: bottom; }
.bars { width: 100%; table-layout: fixed; }
.bars .number { width: 5em; }
.bars .wide { width: 34%; }
.bars th, .bars td { padding-top: 3px; padding-bottom: 3px; }
.bars tbody th { font-weight: 400; }
.facts th { white-space: nowrap; font-weight: 400; color: var(--soft); }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--link); padding: 4px 0; }
details > :nth-child(2) { margin-top: 8px; }
dt { font-weight: 600; }
dd { margin: 0 0 8px; max-width: 68ch; }

svg { display: block; }
.chart { width: 100%; max-width: 520px; height: auto; margin-bottom: 16px; }
.chart text { fill: var(--soft); font-size: 13px; }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.grid { stroke: var(--line); }
.axis { stroke: var(--soft); }
.curve { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.curve-0 { stroke: var(--curve-0); } .curve-1 { stroke: var(--curve-1); }
.curve-2 { stroke: var(--curve-2); } .curve-3 { stroke: var(--curve-3); }
.sample { width: 34px; height: 12px; flex: none; }
.bar { fill: var(--bar); }
.rail { fill: var(--rail); }
.level { width: 100%; height: 10px; margin-top: 7px; }
.legend { list-style: none; margin: 0 0 8px; padding: 0; }
.legend li { display: flex; align-items: center; gap: 10px; }

figure { margin: 0; }
figcaption { font-size: 0.8125rem; line-height: 1.35; margin-top: 4px; }
img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain;
  background: var(--panel); }
.ranking { display: flex; gap: 20px; padding: 14px 0;
  border-top: 1px solid var(--line); }
.query { flex: 0 0 112px; }
.query img { border: 3px solid var(--ink); }
.rows { flex: 1 1 0; min-width: 0; }
.row + .row { margin-top: 12px; }
.row p { margin: 0 0 6px; }
.results { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 10px;
  list-style: none; margin: 0; padding: 0; }
.results img { border: 3px solid var(--right); }
.wrong img { border: 3px dashed var(--wrong); }
.mark { font-weight: 700; color: var(--right); }
.wrong .mark { color: var(--wrong); }
.key { display: flex; flex-wrap: wrap; gap: 2px 22px; max-width: none; }
.file { display: block; }
.name { overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 3; line-clamp: 3; }
@media (max-width: 760px) {
  main { padding: 16px 14px 48px; }
  .ranking { display: block; }
  .query { display: flex; gap: 12px; align-items: flex-start; margin-bottom: 10px; }
  .query img { width: 96px; flex: none; }
  .results { grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 8px; }
  .metrics th, .metrics td { padding-right: 18px; }
  .bars { font-size: 0.875rem; }
  .bars .wide { width: 20%; }
  .bars th, .bars td { padding-right: 8px; }
}
"""
