"""Writes a scene as a LaTeX document with one TikZ picture, for papers and lectures."""

from __future__ import annotations

from tensorgrad.core.table import visible
from tensorgrad.draw.colours import heat_colour, look_of
from tensorgrad.draw.heat import CELL, cell_colour
from tensorgrad.draw.maths import GREEK, pieces
from tensorgrad.draw.place import Placed, place
from tensorgrad.draw.scene import Box, Scene

HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{helvet}
\usepackage[paperwidth=WIDTHbp, paperheight=HEIGHTbp, margin=4bp]{geometry}
\usepackage{tikz}
\usetikzlibrary{arrows.meta}
\renewcommand{\familydefault}{\sfdefault}
\pagestyle{empty}
\setlength{\parindent}{0pt}
\setlength{\topskip}{0pt}
\begin{document}
\begin{tikzpicture}[x=1bp, y=-1bp, every node/.style={inner sep=0, outer sep=0, font=\fontsize{10.5bp}{13.2bp}\selectfont},
  >={Stealth[length=5bp, width=4bp]}]
"""
TAIL = "\\end{tikzpicture}\n\\end{document}\n"
EDGES = {
    "forward": ("->", "555555", ""),
    "gradient": ("<-", "C04F4F", ""),
    "rule": ("-", "C04F4F", ", dashed"),
    "result": ("->", "5B8F1F", ""),
    "repeat": ("->", "4B5B6B", ", dashed"),
}
SIGNS = {
    "×": r"$\times$", "→": r"$\to$", "·": r"$\cdot$", "−": "$-$", "÷": r"$\div$", "…": r"\dots{}", "≠": r"$\neq$",
    "≤": r"$\leq$", "≥": r"$\geq$", "∂": r"$\partial$", "Σ": r"$\Sigma$", "ᵀ": r"${}^{\top}$", "²": "${}^2$", "³": "${}^3$",
    "√": r"$\surd$", "±": r"$\pm$", "µ": r"$\mu$", "∞": r"$\infty$", "‖": r"$\|$", "’": "'", "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", **{c: f"\\{c}" for c in "#$%&_{}"},
    **{sign: f"$\\{name}$" for name, sign in GREEK.items()},
}  # fmt: skip


def to_tikz(scene: Scene) -> str:
    """A document for `pdflatex`, whose tikzpicture can be copied into another one.

    Colours are defined first, by kind of box. Raises MissingDependencyError without Graphviz.
    """
    placed = place(scene)
    kinds = sorted({(box.kind, box.mark) for box in scene.boxes.values()})
    lines = []
    for kind, mark in kinds:
        look = look_of(kind, mark, scene.paper)
        for part, colour in (("fill", look.fill), ("line", look.line), ("ink", look.ink)):
            lines.append(f"\\definecolor{{{kind}{mark}{part}}}{{HTML}}{{{colour[1:].upper()}}}")
    for name, (_, colour, _) in EDGES.items():
        if any(edge.kind == name for edge in scene.edges):
            lines.append(f"\\definecolor{{{name}edge}}{{HTML}}{{{colour}}}")
    lines.append("\\definecolor{frame}{HTML}{888888}")
    for key, (x, y, w, h) in sorted(placed.groups.items(), key=lambda item: -item[1][2] * item[1][3]):
        wide = ", line width=1bp" if key in scene.repeats else ""
        lines.append(f"\\draw[frame, rounded corners=4bp{wide}] ({x:.1f},{y:.1f}) rectangle ({x + w:.1f},{y + h:.1f});")
        lines.append(f"\\node[frame, anchor=north west] at ({x + 6:.1f},{y + 4:.1f}) {{{in_latex(scene.groups[key], False)}}};")
    lines += edge_lines(placed)
    for box in scene.boxes.values():
        lines += box_lines(box, placed.boxes[box.id], scene.paper)
    for i, text in enumerate(scene.caption()):
        lines.append(f"\\node at ({placed.width / 2:.1f},{10 + 14.4 * i:.1f}) {{{in_latex(text, False)}}};")
    head = HEAD.replace("WIDTH", f"{placed.width + 10:.0f}").replace("HEIGHT", f"{placed.height + 10:.0f}")
    area = f"\\useasboundingbox (0,0) rectangle ({placed.width:.1f},{placed.height:.1f});\n"
    return head + area + "\n".join(lines) + "\n" + TAIL


def box_lines(box: Box, where: tuple[float, float, float, float], paper: bool) -> list[str]:
    """The commands that draw a box and its text."""
    x, y, w, h = where
    look, style = look_of(box.kind, box.mark, paper), f"{box.kind}{box.mark}"
    fill = f"fill={style}fill"
    lines = []
    if box.heat is not None and not box.mark:
        lines.append(f"\\definecolor{{heat}}{{HTML}}{{{heat_colour(box.heat)[1:].upper()}}}")
        fill = "fill=heat"
    options = [f"draw={style}line", fill, *["rounded corners=4bp"] * look.round, *["line width=1.2bp"] * look.bold]
    options += ["dashed"] * look.dashed
    lines.append(f"\\draw[{', '.join(options)}] ({x:.1f},{y:.1f}) rectangle ({x + w:.1f},{y + h:.1f});")
    small = [picture for picture, _ in box.maps]
    maps_height = max(len(picture.cells) for picture in small) * CELL + 18 if small else 0.0
    texts, step = box.text, min(13.2, (h - maps_height - 4) / len(box.text))
    wide = [max(CELL * len(picture.cells[0]), 4 * len(picture.caption)) + 6 for picture in small]
    for i, picture in enumerate(small):
        middle = x + w * (sum(wide[:i]) + wide[i] / 2) / sum(wide)
        left = middle - CELL * len(picture.cells[0]) / 2
        for r, row in enumerate(picture.cells):
            for c, value in enumerate(row):
                if value is not None:
                    corner = f"({left + CELL * c:.1f},{y + h - maps_height + 2 + CELL * r:.1f})"
                    colour = cell_colour(value)[1:].upper()
                    lines.append(f"\\definecolor{{cell}}{{HTML}}{{{colour}}}\\fill[cell] {corner} rectangle +({CELL},{CELL});")
        caption = in_latex(picture.caption, False)
        lines.append(f"\\node at ({middle:.1f},{y + h - 9:.1f}) {{\\fontsize{{8bp}}{{9bp}}\\selectfont {caption}}};")
    for i, text in enumerate(texts):
        at = y + (h - maps_height) / 2 + step * (i - (len(texts) - 1) / 2)
        left, anchor = (x + 6, ", anchor=west") if box.left else (x + w / 2, "")
        text_latex = in_latex(text, paper and box.has_names(text))
        lines.append(f"\\node[text={style}ink{anchor}] at ({left:.1f},{at:.1f}) {{\\strut {text_latex}}};")
    return lines


def edge_lines(placed: Placed) -> list[str]:
    lines = []
    for edge, points, label in placed.edges:
        arrow, _, more = EDGES[edge.kind]
        tip = points[-1] if len(points) % 3 == 2 else None
        curve = points[:-1] if tip else points
        if tip and edge.kind == "gradient":
            curve = [tip, tip, curve[0], *curve]
        elif tip:
            curve = [*curve, curve[-1], tip, tip]
        path = f"({curve[0][0]:.1f},{curve[0][1]:.1f})"
        for a, b, c in zip(curve[1::3], curve[2::3], curve[3::3], strict=True):
            path += " .. controls " + " and ".join(f"({x:.1f},{y:.1f})" for x, y in (a, b)) + f" .. ({c[0]:.1f},{c[1]:.1f})"
        lines.append(f"\\draw[{arrow}, {edge.kind}edge{more}] {path};")
        if label is not None:
            x, y = label
            lines.append(f"\\node[{edge.kind}edge] at ({x:.1f},{y:.1f}) {{\\small {in_latex(edge.label, True)}}};")
    return lines


def in_latex(text: str, names: bool) -> str:
    """Text escaped for LaTeX, with names typeset as in formulas if there are any."""
    parts = []
    for upright, letter, index in pieces(visible(text), names):
        parts.append("".join(map(typeset, upright)))
        if letter:
            sign = f"\\{letter}" if letter in GREEK else letter
            below = index if index.isdigit() or len(index) == 1 else f"\\mathrm{{{''.join(map(typeset, index))}}}"
            parts.append(f"${sign}{f'_{{{below}}}' if index else ''}$")
    return "".join(parts)


def typeset(character: str) -> str:
    """One character of text; by its code if LaTeX's fonts lack it."""
    if character in SIGNS:
        return SIGNS[character]
    return character if ord(character) < 256 and character.isprintable() else f"[U+{ord(character):04X}]"
