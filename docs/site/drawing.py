"""A pass's example as a picture: the graph before and after it, side by side."""

from __future__ import annotations

import html

from torch import fx

from fxopt import Program, op_name

_WIDTH, _ROW, _LETTER, _GAP, _BOX = 7, 58, 7.0, 18, 30


def drawn(before: Program, after: Program) -> str:
    """SVG that takes the colours of the page around it; ops that are new have a thick border."""
    known = {(node.name, op_name(node)) for node in before.graph.nodes if node.op == "call_function"}
    left, w, h = _side(before, known)
    right, v, g = _side(after, known)
    height, width = max(h, g) + 24, w + v + 60
    middle = f'<text x="{w + 30:.0f}" y="{height / 2:.0f}" text-anchor="middle" font-size="24">→</text>'
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px;width:100%" role="img" '
        f'aria-label="graph before and after" fill="none" stroke="currentColor" font-family="monospace" font-size="12">'
        f"<g>{left}</g><g fill='currentColor' stroke='none'>{middle}</g>"
        f'<g transform="translate({w + 60:.0f},0)">{right}</g></svg>'
    )


def _side(program: Program, known: set[tuple[str, str]]) -> tuple[str, float, float]:
    """Boxes in rows by the longest way from an input, with lines between them; width and height."""
    nodes = [node for node in program.graph.nodes if node.op in ("placeholder", "call_function")]
    rank: dict[fx.Node, int] = {}
    for node in nodes:
        rank[node] = max((rank[operand] + 1 for operand in node.all_input_nodes if operand in rank), default=0)
    rows: dict[int, list[fx.Node]] = {}
    for node in nodes:
        rows.setdefault(rank[node], []).append(node)
    wide = {node: max(54.0, _LETTER * len(_label(node)) + 2 * _WIDTH) for node in nodes}
    total = max((sum(wide[node] + _GAP for node in row) - _GAP for row in rows.values()), default=0) + 40
    place: dict[fx.Node, tuple[float, float]] = {}
    for number, row in rows.items():
        x = (total - sum(wide[node] + _GAP for node in row) + _GAP) / 2
        for node in row:
            place[node] = (x + wide[node] / 2, number * _ROW + 12)
            x += wide[node] + _GAP
    lines = [_edge(place[a], place[node], wide[a]) for node in nodes for a in node.all_input_nodes if a in place]
    returned = {node for node in program.outputs() if isinstance(node, fx.Node)}
    bold = ' font-weight="bold"'
    for node, (x, y) in place.items():
        new = node.op == "call_function" and (node.name, op_name(node)) not in known
        dashed = ' stroke-dasharray="4 3"' if node.op == "placeholder" else ""
        lines.append(
            f'<rect x="{x - wide[node] / 2:.0f}" y="{y:.0f}" width="{wide[node]:.0f}" height="{_BOX}" rx="5" '
            f'stroke-width="{2.5 if new else 1}"{dashed}/>'
            f'<text x="{x:.0f}" y="{y + 20:.0f}" text-anchor="middle" fill="currentColor" stroke="none"'
            f"{bold if node in returned else ''}>{html.escape(_label(node))}</text>"
        )
    return "".join(lines), total, (max(rows, default=0) + 1) * _ROW


def _edge(start: tuple[float, float], end: tuple[float, float], wide: float) -> str:
    """A line from under one box to another; around what stands between where that is not in the next row."""
    (x, y), (u, v) = (start[0], start[1] + _BOX), end
    if v - y < _ROW:
        return f'<line x1="{x:.0f}" y1="{y:.0f}" x2="{u:.0f}" y2="{v:.0f}" opacity="0.5"/>'
    side = wide / 2 + 34
    return f'<path d="M{x:.0f},{y:.0f} C{x + side:.0f},{y + 18:.0f} {u + side:.0f},{v - 18:.0f} {u:.0f},{v:.0f}" opacity="0.5"/>'


def _label(node: fx.Node) -> str:
    if node.op == "placeholder":
        return str(node.target)
    parts = op_name(node).split(".")
    return parts[1] if len(parts) > 1 else parts[0]
