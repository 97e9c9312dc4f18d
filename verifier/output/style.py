"""The style sheet of the page; the page's policy names its hash, so that no other style is ever applied."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #59636e; --page: #f6f7f9; --card: #fff; --line: #d9dee4;
  --good: #1a7f37; --bad: #c21c2b; --warn: #9a6700; --model: #2f6fbd; --tool: #1f8a80; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa5b1; --page: #0f1318; --card: #181d24;
  --line: #323a44; --good: #3fb950; --bad: #ff6b6b; --warn: #d9a520; --model: #2f6fbd; --tool: #1f8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main, footer { max-width: 1120px; margin: 0 auto; padding: 24px 20px; }
footer { color: var(--soft); font-size: 14px; padding-top: 0; }
h1 { font-size: 22px; margin: 0 0 8px; }
h2 { display: flex; gap: 12px; align-items: baseline; font-size: 22px; margin: 0 0 14px; overflow-wrap: anywhere; }
h4 { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: baseline; font-size: 15px; margin: 0 0 4px; }
article { border-left: 3px solid var(--line); padding: 2px 0 2px 14px; margin-bottom: 14px; }
small { color: var(--soft); font-size: 13.5px; font-weight: 400; }
h3 { font-size: 16px; margin: 26px 0 8px; }
p { margin: 0 0 8px; }
section, nav { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 22px 24px;
  margin-bottom: 22px; }
section { border-top: 5px solid var(--bad); }
section.PASS { border-top-color: var(--good); }
section.INCOMPLETE { border-top-color: var(--warn); }
nav ol { margin: 0; padding-left: 24px; max-height: 60vh; overflow: auto; }
nav li { padding: 2px 0; overflow-wrap: anywhere; }
a { color: inherit; }
code { font: 0.92em ui-monospace, monospace; }
.badge { display: inline-block; flex: none; padding: 0 8px; border: 1px solid currentColor; border-radius: 6px;
  color: var(--bad); font-size: 0.8em; font-weight: 700; letter-spacing: 0.02em; }
.badge.PASS { color: var(--good); }
.badge.INCOMPLETE { color: var(--warn); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 16px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 20px; }
li { overflow-wrap: anywhere; }
.claims { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 32px; }
.claims li { margin-bottom: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td code { white-space: nowrap; }
.hint { margin: 4px 0 0; font-style: italic; }
details { margin-top: 6px; }
summary { cursor: pointer; color: var(--soft); }
details td { white-space: nowrap; font-variant-numeric: tabular-nums; }
svg { display: block; min-width: 720px; width: 100%; height: auto; }
svg .lane { fill: var(--ink); font: 600 13px ui-monospace, monospace; }
svg tspan { fill: var(--soft); font-weight: 400; }
svg .time { fill: var(--soft); font: 12px ui-monospace, monospace; }
svg .name { fill: #fff; font: 11px ui-monospace, monospace; pointer-events: none; }
svg .bad + .name { fill: var(--page); }
svg .open + .name { fill: var(--ink); }
svg .track, svg .tick { stroke: var(--line); fill: none; }
.model { fill: var(--model); background: var(--model); }
.tool { fill: var(--tool); background: var(--tool); }
.bad { fill: var(--warn); background: var(--warn); }
.open { fill: none; stroke: var(--warn); stroke-dasharray: 3 2; }
.deny { fill: var(--bad); background: var(--bad); }
.hold { fill: var(--warn); background: var(--warn); }
.note { fill: var(--soft); background: var(--soft); }
.mark { stroke: var(--soft); stroke-width: 1.5; }
.revoked { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 4 3; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin-top: 8px; list-style: none;
  color: var(--soft); font-size: 14px; }
.legend i { display: inline-block; width: 14px; height: 10px; margin-right: 6px; border-radius: 2px; }
.legend i.open { border: 1px dashed var(--warn); }
.legend i.deny { width: 9px; height: 9px; transform: rotate(45deg); border-radius: 0; }
.legend i.hold { width: 10px; border-radius: 5px; }
.legend i.note { width: 8px; height: 8px; border-radius: 0; }
.legend i.mark { width: 2px; background: var(--soft); }
.legend i.revoked { width: 0; border-left: 2px dashed var(--bad); }
@media (max-width: 560px) { main { padding: 12px 10px; } section, nav { padding: 16px 14px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: 8px; } h2 { font-size: 19px; } }
@media print { body { background: none; } section, nav { break-inside: avoid-page; } }
"""
