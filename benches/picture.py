"""The picture of the speed: a bar for each ratio, as SVG that can be read on a light page and on a dark one."""

import html

from harness import grouped

WIDTH, GROUP, LABELS, BARS, VALUES = 900, 16, 345, 455, 884
ROW, GAP, HEAD, BAR = 18, 7, 40, 11
TOP, BOTTOM = 70, 30
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
    """Of the results of several parts: the rows that are rates, so that more is better in all of them.

    `parts`: each with the words it is under.
    """
    text = lambda x, y, words, kind="": f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{html.escape(words)}</text>'
    line = lambda x, y, to, kind: f'<line x1="{x:.1f}" y1="{y:.0f}" x2="{x:.1f}" y2="{to:.0f}" class="{kind}"/>'
    bars, y = [], TOP
    for heading, results in parts:
        y += HEAD
        bars.append(text(GROUP, y - 16, heading, "head"))
        rates = [row for row in results.rows if row.ratio and row.unit in ("/s", "MB/s")]
        for group, rows in grouped(rates):
            bars.append(text(GROUP, y + BAR - 1, group.replace("`", "")))
            for row in rows:
                kind = {True: "yes", False: "no", None: "free"}[row.kept]
                width = x(row.ratio) - LABELS
                bars.append(text(LABELS - 10, y + BAR - 1, row.what.replace("`", ""), "soft end"))
                bars.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" class="{kind}"/>')
                sign = row.target.split()
                if sign[:1] == ["≥"] and len(sign) == 2:
                    bars.append(line(x(float(sign[1])), y - 2, y + BAR + 2, "target"))
                if row.ratio > SCALE:
                    edge, middle = x(SCALE), y + BAR / 2
                    bars.append(f'<path d="M{edge} {y - 2} l9 {BAR / 2 + 2} l-9 {BAR / 2 + 2} z" class="{kind}"/>')
                bars.append(text(VALUES, y + BAR - 1, f"{row.ratio:.2f}", "end"))
                y += ROW
            y += GAP

    height = y + BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        "  <title>How fast Release Server is, as a multiple of its peers</title>",
        f"  <style>\n{STYLE}\n  </style>",
        text(GROUP, 26, "Speed, as a multiple of the peer’s", "title"),
    ]
    left = GROUP
    for kind, words in (("yes", "target reached"), ("no", "target missed"), ("free", "no target")):
        out.append(f'<rect x="{left}" y="39" width="12" height="11" rx="2" class="{kind}"/>')
        out.append(text(left + 18, 49, words, "soft"))
        left += 34 + 7 * len(words)
    out += [line(left + 4, 38, 51, "target"), text(left + 12, 49, "target", "soft")]
    for half in range(int(SCALE * 2) + 1):
        out.append(line(x(half / 2), TOP + 8, y, "peer" if half == 2 else "grid"))
        for at in (TOP + 2, y + 16):
            out.append(text(x(half / 2), at, "the peer" if half == 2 else f"{half / 2:g} ×", "soft middle"))
    return "\n".join([*out, *bars, "</svg>"]) + "\n"
