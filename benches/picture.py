"""The picture of the speed: a bar for each ratio, as SVG that can be read on a light page and on a dark one."""

import html
import itertools

WIDTH, LABELS, BARS = 900, 330, 500
ROW, HEAD, BAR = 19, 27, 11
TOP, BOTTOM = 76, 34
SCALE = 2.5
"""The greatest ratio that is drawn; what is greater ends in an arrow."""

STYLE = """\
    text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 }
    .head { font-weight: 600 }
    .soft { fill: #59636e }
    .end { text-anchor: end }
    .middle { text-anchor: middle }
    .grid { stroke: #d1d9e0; stroke-width: 1 }
    .peer { stroke: #59636e; stroke-width: 1.5; stroke-dasharray: 4 3 }
    .target { stroke: #1f2328; stroke-width: 2.5 }
    .yes { fill: #1a7fc4 } .no { fill: #e07b28 } .free { fill: #9aa4ae }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .soft { fill: #9198a1 }
      .grid { stroke: #3d444d }
      .peer { stroke: #9198a1 }
      .target { stroke: #f0f6fc }
      .yes { fill: #3f9fe4 } .no { fill: #e8924a } .free { fill: #6e7781 }
    }"""


def x(ratio):
    return LABELS + BARS * min(ratio, SCALE) / SCALE


def draw(parts):
    """Of the results of several parts: the rows that are rates, so that more is better in all of them."""
    groups = []
    for results in parts:
        rows = [row for row in results.rows if row.ratio and row.unit in ("/s", "MB/s")]
        for group, rows in itertools.groupby(rows, lambda row: row.group):
            peer = f" · {results.peer}" if "against" not in group else ""
            groups.append((group.replace("`", "") + peer, list(rows)))
    height = TOP + BOTTOM + sum(HEAD + ROW * len(rows) for _, rows in groups)

    text = lambda x, y, words, kind="": f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{html.escape(words)}</text>'
    line = lambda x, y, to, kind: f'<line x1="{x:.1f}" y1="{y:.0f}" x2="{x:.1f}" y2="{to:.0f}" class="{kind}"/>'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        "  <title>How fast Release Server is, as a multiple of its peers</title>",
        f"  <style>\n{STYLE}\n  </style>",
        text(16, 26, "Speed as a multiple of the peer’s", "title"),
    ]
    legend = (("yes", "target reached"), ("no", "target missed"), ("free", "no target"))
    left = 16
    for kind, words in legend:
        out.append(f'<rect x="{left}" y="39" width="12" height="11" rx="2" class="{kind}"/>')
        out.append(text(left + 17, 49, words, "soft"))
        left += 32 + 7 * len(words)
    out += [line(left + 4, 38, 51, "target"), text(left + 12, 49, "target", "soft")]
    bottom = height - BOTTOM + 4
    for tenth in range(0, int(SCALE * 10) + 1, 5):
        ratio = tenth / 10
        out.append(line(x(ratio), TOP - 6, bottom, "peer" if ratio == 1 else "grid"))
        for y in (TOP - 12, bottom + 16):
            out.append(text(x(ratio), y, "as fast" if ratio == 1 and y < TOP else f"{ratio:g} ×", "soft middle"))
    y = TOP
    for group, rows in groups:
        y += HEAD
        out.append(text(16, y - 8, group, "head"))
        for row in rows:
            kind = {True: "yes", False: "no", None: "free"}[row.kept]
            out.append(text(LABELS - 10, y + BAR - 1, row.what.removeprefix("… ").replace("`", ""), "soft end"))
            out.append(f'<rect x="{LABELS}" y="{y}" width="{x(row.ratio) - LABELS:.1f}" height="{BAR}" rx="2" class="{kind}"/>')
            sign = row.target.split()
            if sign[:1] == ["≥"] and len(sign) == 2:
                out.append(line(x(float(sign[1])), y - 2, y + BAR + 2, "target"))
            more = " ▸" if row.ratio > SCALE else ""
            out.append(text(x(row.ratio) + 6, y + BAR - 1, f"{row.ratio:.2f}{more}"))
            y += ROW
    out.append("</svg>")
    return "\n".join(out) + "\n"
