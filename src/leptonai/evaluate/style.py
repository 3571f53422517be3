"""The look of a report: one sheet, light and dark, from a phone to a wide screen. It is inline, and the page's policy allows it by its hash."""

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1f23;--soft:#646b75;--line:#e6e7e5;--grid:#eceeed;--accent:#2f6fde;
--good:#1c8a5b;--bad:#cf3f3a;--warn:#8a5a00;--warnbg:#fff6e0;--shade:#f3f4f3}
@media(prefers-color-scheme:dark){:root{--bg:#131518;--card:#1b1e22;--ink:#e8eaed;--soft:#98a0ab;--line:#2b3036;--grid:#272b31;
--accent:#6ea2ff;--good:#4cc38a;--bad:#ff7b72;--warn:#f2c879;--warnbg:#2c2413;--shade:#22262b}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
-webkit-text-size-adjust:100%;font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:28px 20px 56px}
h1{font-size:26px;line-height:1.25;margin:2px 0 8px;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:18px;margin:40px 0 4px;letter-spacing:-.01em}
h3{font-size:14px;margin:0 0 6px;font-weight:600}
p{margin:4px 0 12px}
.soft,.lead{color:var(--soft)}
.lead{max-width:68ch}
small{font-size:12.5px;color:var(--soft)}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}
.eyebrow{color:var(--accent);font-size:12.5px;font-weight:600;letter-spacing:.04em;text-transform:uppercase}
.facts{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:14px}
.facts b{color:var(--ink);font-weight:600}
.call{border-left:3px solid var(--line);background:var(--shade);padding:9px 14px;border-radius:0 8px 8px 0;margin:10px 0;max-width:90ch}
.call.warn{border-color:var(--warn);background:var(--warnbg)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(176px,1fr));gap:12px;margin-top:20px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.card .name{font-size:13px;color:var(--soft)}
.card .value{font-size:27px;line-height:1.25;font-weight:640;letter-spacing:-.02em}
.card.first{border-color:var(--accent)}
.card.first .value{color:var(--accent)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:12px;margin-top:12px}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
svg{display:block;max-width:100%}
svg.plot{width:100%;height:auto;max-width:520px;margin:0 auto}
svg.matrix{height:auto;margin:0 auto}
.scroll svg.matrix{max-width:none}
svg.interval{width:160px;max-width:100%;height:16px}
svg.share{width:60px;height:6px;display:inline-block;vertical-align:middle}
text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
text.axis{fill:var(--ink)}
text.count{fill:var(--ink);font-size:10.5px}
text.count.on{fill:#fff}
.grid{stroke:var(--grid);fill:none}
.guide{stroke:var(--soft);stroke-dasharray:3 4;fill:none;opacity:.7}
.mark{stroke:var(--soft);fill:none}
.rail{stroke:var(--line);stroke-width:2;fill:var(--line);stroke-linecap:round}
rect.rail{stroke:none}
.range{stroke:currentColor;stroke-width:4;stroke-linecap:round;opacity:.45;fill:none}
.whisker{stroke:currentColor;opacity:.45;stroke-width:1.5;fill:none}
.line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}
.line.thin{stroke-width:1.2;opacity:.6}
.dot,.bar{fill:currentColor}
.bar{opacity:.85}
.dot.faint{opacity:.35}.whisker.faint{opacity:.18}
.none{fill:var(--shade)}.hit{fill:var(--accent)}.miss{fill:var(--bad)}
.c0{color:var(--accent)}.c1{color:#d9822b}.c2{color:#1c9a78}.c3{color:#c2557f}.c4{color:#8a63d2}
.c5{color:#9a7d0a}.c6{color:#2b9fb8}.c7{color:#b5542c}.c8{color:#6b8e23}.c9{color:#7a7f87}
.good{color:var(--good)}.bad{color:var(--bad)}
.legend{display:flex;flex-wrap:wrap;gap:3px 14px;font-size:12.5px;margin:6px 0 0;padding:0;list-style:none}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;background:currentColor;vertical-align:middle;margin-right:6px}
.legend span{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:500;color:var(--soft);text-align:left;font-size:12.5px;border-bottom:1px solid var(--line);padding:6px 10px 6px 0;white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:6px 10px 6px 0;vertical-align:middle}
tr:last-child td{border-bottom:0}
.n{text-align:right;white-space:nowrap}
td.text{max-width:46ch;overflow-wrap:anywhere}
.tag{display:inline-block;font-size:12px;font-weight:600;border:1px solid currentColor;border-radius:99px;padding:0 8px;white-space:nowrap}
.verdict{display:flex;flex-wrap:wrap;gap:8px 28px;align-items:center}
.verdict strong{font-size:22px;letter-spacing:-.01em}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:12px;margin-top:12px}
.shot{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:10px;font-size:13px;overflow-wrap:anywhere}
.shot img{display:block;width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;border-radius:7px;background:var(--shade);margin-bottom:8px}
.row{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 14px;margin-top:10px}
.row .say{font-size:13.5px;margin-bottom:4px}
.row .said{overflow-wrap:anywhere;white-space:pre-line}
.cells{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px}
.cells span{color:var(--soft)}
details{margin-top:12px}
summary{cursor:pointer;color:var(--accent);font-size:14px}
footer{margin-top:48px;padding-top:14px;border-top:1px solid var(--line);color:var(--soft);font-size:13px}
@media(max-width:560px){main{padding:18px 14px 40px}h1{font-size:22px}.cards{grid-template-columns:1fr 1fr;gap:8px}.card{padding:11px 12px}
.card .value{font-size:22px}.gallery{grid-template-columns:1fr 1fr}h2{margin-top:32px}}
@media print{body{background:#fff}.card,.row,.shot{break-inside:avoid}}
"""
