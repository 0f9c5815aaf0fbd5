"""Hook of MkDocs: the pages include README files, whose links start from the file's own folder on the disk."""

from __future__ import annotations

import re
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

# Beginning of a link in the repository -> the same on the site. The first one that fits is taken.
_PLACES = {
    r'(?:\.\./)*docs/': '',
    r'(?:\.\./)*search/README\.md': 'search.md',
    r'(?:\.\./)*downstream/README\.md': 'detect-and-segment.md',
    r'(?:\.\./)*CONTRIBUTING\.md#': 'extend.md#',
    r'(?:\.\./)*CONTRIBUTING\.md': 'contribute.md',
    r'(?:\.\./)*CHANGELOG\.md': 'changes.md',
}


class _Links(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return [_on_the_site(line) for line in lines]


def _on_the_site(line: str) -> str:
    for pattern, place in _PLACES.items():
        line = re.sub(rf'\]\({pattern}', f']({place}', line)
    return line


class _AfterSnippets(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(_Links(md), 'links', 31)  # the snippets have 32, and larger ones run first


def on_config(config: Any) -> Any:
    """Add the extension."""
    config.markdown_extensions.append(_AfterSnippets())
    return config
