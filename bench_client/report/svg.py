"""Rewrites matplotlib's SVG: small, in the page's colours, and with ids that are unique among all figures of a page.

A figure's text stays text: it takes the page's font, can be searched and copied, and grows with the reader's zoom.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from bench_client.report.theme import replacements

SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_DROPPED = {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d+")
_ROTATE_BY_NOTHING = re.compile(r"rotate\(-?0 ")
_FONT_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_ALONE_STYLE = (
    "*{stroke-linejoin:round;stroke-linecap:butt}"
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
)


def inline(drawn: str, prefix: str, label: str) -> str:
    """Return an ``svg`` element for a page, with a label for those who can't see it. ``prefix`` is its own."""
    root = _rewritten(drawn, prefix, replacements(alone=False))
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{SVG}"', "")


def standalone(drawn: str, prefix: str, label: str) -> str:
    """Return the figure as a file of its own, dark on white whatever is around it."""
    root = _rewritten(drawn, prefix, replacements(alone=True))
    for name in ("width", "height"):
        root.set(name, root.get(name, "").removesuffix("pt"))
    root.set("role", "img")
    title, style, paper = (ElementTree.Element(f"{{{SVG}}}{name}") for name in ("title", "style", "rect"))
    title.text, style.text = label, _ALONE_STYLE
    paper.attrib.update({"width": "100%", "height": "100%", "fill": "#ffffff"})
    for place, element in enumerate((title, style, paper)):
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _rewritten(drawn: str, prefix: str, colours: dict[str, str]) -> ElementTree.Element:
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(drawn)
    _drop(root)
    used = set(_REFERENCE.findall(drawn)) | {
        element.attrib[_XLINK].removeprefix("#") for element in root.iter() if _XLINK in element.attrib
    }
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", f"{prefix}-{identity}")
        if _XLINK in element.attrib:
            element.set("href", f"#{prefix}-{element.attrib.pop(_XLINK).removeprefix('#')}")
        for name, value in element.attrib.items():
            if name not in ("id", "href"):
                element.set(name, _compact(value, prefix, colours))
        if "d" in element.attrib:
            element.set("d", _shortened(element.attrib["d"]))
        _tidy(element)
    return root


def _drop(element: ElementTree.Element) -> None:
    for child in list(element):
        if child.tag in _DROPPED:
            element.remove(child)
        else:
            _drop(child)


def _compact(value: str, prefix: str, colours: dict[str, str]) -> str:
    value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
    value = _FONT_FAMILY.sub("", value)
    value = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
    for stand_in, colour in colours.items():
        value = value.replace(stand_in, colour)
    return " ".join(value.split())


def _shortened(path: str) -> str:
    """Shorten a path: a line along an axis says where it ends on that axis alone, which halves a path of steps."""
    parts = path.split()
    shortened, at, place = [], ("", ""), 0
    while place < len(parts):
        command = parts[place]
        if command not in ("M", "L"):  # a curve, or the end: the point reached is not known, nor needed
            shortened.append(command)
            at, place = ("", ""), place + 1
            continue
        to = (parts[place + 1], parts[place + 2])
        if command == "L" and to[0] == at[0]:
            shortened.append(f"V{to[1]}")
        elif command == "L" and to[1] == at[1]:
            shortened.append(f"H{to[0]}")
        else:
            shortened.append(f"{command}{to[0]} {to[1]}")
        at, place = to, place + 3
    return " ".join(shortened)


def _tidy(element: ElementTree.Element) -> None:
    """Remove matplotlib's white space between elements, and rotations by nothing."""
    if element.tag != f"{{{SVG}}}text" and element.text is not None and not element.text.strip():
        element.text = None
    if element.tail is not None and not element.tail.strip():
        element.tail = None
    if _ROTATE_BY_NOTHING.match(element.get("transform", "")):
        element.attrib.pop("transform")
    if "var(" in element.get("fill", ""):  # only a style knows variables
        element.set("style", f"fill: {element.attrib.pop('fill')}")
