"""Read a page of HTML into a tree, with the parser of the standard library."""

import html.parser

VOID = {"meta", "img", "br", "hr", "input", "link", "wbr"}


class Node:
    """An element: its tag, attributes, parent and children; children may be texts."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children = []

    def all(self, tag=None, **attributes):
        """The elements below, in order, of a tag and with attributes."""
        for child in self.children:
            if isinstance(child, Node):
                wanted = {name.rstrip("_"): value for name, value in attributes.items()}
                if (
                    tag in (None, child.tag)
                    and wanted.items() <= child.attributes.items()
                ):
                    yield child
                yield from child.all(tag, **attributes)

    def first(self, tag=None, **attributes):
        return next(self.all(tag, **attributes))

    @property
    def text(self):
        parts = (c if isinstance(c, str) else c.text for c in self.children)
        return "".join(parts)


class _Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = self.place = Node("", {}, None)
        self.comments = []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {tag}"
        node = Node(tag, dict(attributes), self.place)
        self.place.children.append(node)
        if tag not in VOID:
            self.place = node

    def handle_endtag(self, tag):
        if tag == "wbr":  # Python 3.10 closes it, which browsers pass over
            return
        assert tag == self.place.tag, f"</{tag}> closes <{self.place.tag}>"
        self.place = self.place.parent

    def handle_data(self, data):
        # Line breaks between elements are the templates', never part of a name.
        if data.strip() or "\n" not in data:
            self.place.children.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def parse(text):
    """The root of a page, in which all that is opened is closed, in order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.place is reader.root
    assert reader.comments == []
    return reader.root


def table_rows(table):
    """The cells of a table as texts."""
    return [
        [cell.text for cell in row.children if cell.tag in ("td", "th")]
        for row in table.all("tr")
    ]
