"""Rules of the package: file sizes, public names, and what no page says before the name is registered."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parents[1]
sys.path.insert(0, str(PACKAGE))


def problems() -> list[str]:
    import corral_client
    from corral_client import asyncio

    found = []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "examples" / "python").rglob("*.py")]:
        lines = len(path.read_text().splitlines())
        if lines > 400:
            found.append(f"{path}: {lines} lines, more than 400")
    for module in (corral_client, asyncio):
        if len(module.__all__) > 20:
            found.append(f"{module.__name__}: {len(module.__all__)} public names, more than 20")
    if corral_client.__all__ != asyncio.__all__:
        found.append("corral_client and corral_client.asyncio have different names")
    bare = re.compile(r"(pip|uv|pipx|poetry)( pip)? (install|add)[^\n`]*\bcorral[-_]client\b")
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("clients/**/*.md"), *ROOT.glob("examples/**/*.md")]:
        if bare.search(page.read_text()):
            found.append(f"{page}: the name is not registered; install from the tree or a release file")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems()) or 0)
