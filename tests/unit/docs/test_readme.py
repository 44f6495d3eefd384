# SPDX-License-Identifier: GPL-2.0-or-later
"""What the README shows is what the repository holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def test_readme_shows_the_example_as_it_is() -> None:
    shown = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert shown
    assert (
        "# SPDX-License-Identifier: GPL-2.0-or-later\n" + shown.group(1)
        == (ROOT / "examples" / "echo_server.py").read_text()
    )


def test_every_link_of_readme_and_docs_leads_somewhere() -> None:
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for text in texts:
        for target in re.findall(r"\]\(([^)#:]+)\)", text.read_text()):
            assert (text.parent / target).exists(), f"{text.name} links to {target}"


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_source_file_names_its_licence() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for folder in (
            "vnic",
            "guest",
            "devmodel",
            "stack",
            "images",
            "bench",
            "examples",
            "tests",
            "tools",
            "docs",
        )
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".c", ".sh", ".toml", ".md", ".html", ".js", ".css"}
        or (path.is_file() and path.parent.name == "tools")
        if "SPDX-License-Identifier: GPL-2.0-or-later" not in path.read_text()[:200]
    ]
    assert not missing
