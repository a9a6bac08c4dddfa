"""matplotlib's SVG written shorter: text stays text, a style is written once, numbers have one digit at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

FONTS = "system-ui,'Segoe UI',Roboto,'Helvetica Neue','Noto Sans','Liberation Sans',Arial,'DejaVu Sans',sans-serif"
FONT_FAMILY = re.compile(r"font-family:[^;]*;?")
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
NO_ROTATION = re.compile(r"^rotate\(-?0(?:[ ,]|\))")
REFERENCE = re.compile(r"#([\w-]+)")
UNSEEN = re.compile(r"fill: none;?|(?!.*stroke:).*(?:^|[ ;])(?:fill-)?opacity: 0(?:;.*)?")
LEFT_OUT = {"metadata", "title", "style"}
PLACES = ("x", "y", "width", "height")  # attributes that are one number


def compact(text: str) -> str:
    """The same picture in fewer bytes, without what its reader does not need: ids, comments, metadata."""
    root = ElementTree.fromstring(text)
    used = {name for element in root.iter() for value in element.attrib.values() for name in REFERENCE.findall(value)}
    writer = _Writer(used)
    body = "".join(part for child in root for part in writer.write(child))
    rules = "".join(f".{name}{{{style}}}" for style, name in writer.styles.items())
    size = " ".join(f"{name}={quoteattr(root.attrib[name])}" for name in ("width", "height", "viewBox"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size}>'
        f"<style>*{{stroke-linejoin:round;stroke-linecap:butt}}text{{font-family:{FONTS}}}{rules}</style>{body}</svg>"
    )


class _Writer:
    """Writes elements one after another, and remembers the classes that it made of their styles."""

    def __init__(self, used: set[str]) -> None:
        self.used = used
        self.styles: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def write(self, element: ElementTree.Element) -> Iterator[str]:
        """An element and what is in it; a group that says nothing is left away."""
        tag = element.tag.rpartition("}")[2]
        if tag in LEFT_OUT or (tag == "path" and UNSEEN.fullmatch(element.get("style", ""))):
            return
        inner = "".join(part for child in element for part in self.write(child))
        attributes = "".join(self._attributes(element))
        said = escape(element.text) if tag == "text" and element.text else ""
        if tag in ("g", "defs") and (not inner or (tag == "g" and not attributes)):
            yield inner
        elif inner or said:
            yield f"<{tag}{attributes}>{said}{inner}</{tag}>"
        else:
            yield f"<{tag}{attributes}/>"

    def _attributes(self, element: ElementTree.Element) -> Iterator[str]:
        for key, value in element.attrib.items():
            name = key.rpartition("}")[2]
            if name == "id":
                if value in self.used:
                    yield f' id="{self._short(value)}"'
            elif name == "style":
                yield from self._class(value)
            elif name == "href":
                yield f" xlink:href={quoteattr(self._renamed(value))}"
            elif name == "transform" and NO_ROTATION.match(value):
                continue
            elif name == "d":
                yield f' d="{path_data(value)}"'
            elif name in PLACES:
                yield f' {name}="{_shorter(value)}"'
            else:
                yield f" {name}={quoteattr(self._renamed(value))}"

    def _class(self, style: str) -> Iterator[str]:
        short = re.sub(r"\s*([:;,])\s*", r"\1", FONT_FAMILY.sub("", style)).strip("; ")
        if short:
            yield f' class="{self.styles.setdefault(short, f"c{len(self.styles)}")}"'

    def _renamed(self, value: str) -> str:
        return value if value.startswith("data:") else REFERENCE.sub(self._reference, value)

    def _reference(self, found: re.Match[str]) -> str:
        return f"#{self._short(found[1])}" if found[1] in self.used else found[0]

    def _short(self, name: str) -> str:
        return self._names.setdefault(name, f"i{len(self._names)}")


def path_data(text: str) -> str:
    """``M 63.36 42.84 L 97.2 42.84`` as ``M63.4 42.8H97.2``."""
    parts, at = [], ("", "")
    for command, numbers in re.findall(r"([MLQCZz])([^MLQCZz]*)", text):
        points = [_shorter(number) for number in numbers.split()]
        if command == "L" and points[0] == at[0]:
            parts.append(f"V{points[1]}")
        elif command == "L" and points[1] == at[1]:
            parts.append(f"H{points[0]}")
        else:
            parts.append(command + " ".join(points))
        at = (points[-2], points[-1]) if points else ("", "")
    return "".join(parts)


def _shorter(number: str) -> str:
    """With one digit after the point, at most."""
    if not NUMBER.fullmatch(number):
        return number
    text = f"{float(number):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
