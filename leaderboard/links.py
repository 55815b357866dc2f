"""Links between the pages of a site: what leads to a part of one page does so from every page."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Of the markup alone: what comes from records has no ``<`` there, and no quote in an attribute.
_ID = re.compile(r'<[a-z][^<>]*? id="([^"]+)"')
_LINK = re.compile(r'(<a [^<>]*?href=")([^"#:]*)#([^"&]+)')


def joined(pages: Mapping[str, str]) -> dict[str, str]:
    """The same pages, by file, with every link to a part that its page lacks and another has
    leading to that other: ``#x``, or ``index.html#x``. Of two that have it, the first. What no page
    has stays.
    """
    ids = {name: set(_ID.findall(text)) for name, text in pages.items()}
    holder = {part: name for name in reversed(list(pages)) for part in ids[name]}

    def of(page: str, text: str) -> str:
        def lead(link: re.Match[str]) -> str:
            start, file, part = link.groups()
            if part in ids.get(file or page, ()) or part not in holder:
                return link[0]
            return f"{start}{holder[part]}#{part}"

        return _LINK.sub(lead, text)

    return {name: of(name, text) for name, text in pages.items()}
