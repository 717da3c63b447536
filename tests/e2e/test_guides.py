"""The guides in docs/ say what is so: each command in them is executed, in a box of its own."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.guides import GUIDES, LANGUAGES, GuideBox, blocks

pytestmark = pytest.mark.timeout(600)  # a whole guide


@pytest.fixture
def guide_box(tmp_path: Path) -> Iterator[GuideBox]:
    """Give a machine on which nothing has been done yet."""
    box = GuideBox(tmp_path)
    yield box
    assert box.close() == ""


_guide = pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)


@_guide
def test_a_guide_does_what_it_says(guide_box: GuideBox, page: Path) -> None:
    """Every command of it succeeds, in its order, and none is left out."""
    done = [block.line for block in guide_box.follow(page) if block.language == "sh"]
    lines = page.read_text().splitlines()
    assert done == [number + 2 for number, line in enumerate(lines) if line.strip() == "```sh"]


@_guide
def test_every_block_of_a_guide_says_what_it_is(page: Path) -> None:
    """A block in another language, or in none, would not be looked at by anybody."""
    found = list(blocks(page.read_text()))
    assert found
    assert {block.language for block in found} <= LANGUAGES


@_guide
def test_links_of_a_guide_lead_somewhere(page: Path) -> None:
    """To a file of this repository, and to a heading that is in it."""
    for target, heading in re.findall(r"\]\((?!https:)([^)#]*)#?([^)]*)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert not heading or heading in [_anchor(line) for line in lines], f"{target}#{heading}"


def _anchor(heading: str) -> str:
    """Return the name by which a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


PAGE = """# How to fail

```ini
# /etc/systemd/system/noisy.service
[Service]
Type=oneshot
ExecStart=sh -c 'echo a word in the journal; id -un >/tmp/who'
```

    ```sh
    systemctl start noisy
    cat /tmp/who
    ```

```sh
# as nobody
test "$(id -un)" = nobody
curl -sS localhost:PORT && exit 9
python3 -m http.server PORT &
```
```sh
timeout 30 sh -c 'until curl -sS localhost:PORT/examples/hello.py; do sleep 0.1; done'
echo "and now:"
false
echo "and on"
```
"""


def test_a_command_that_fails_is_named(guide_box: GuideBox, tmp_path: Path) -> None:
    """With the page and its line, what has been written up to there, and the journal.

    Ports are not the host's: what somebody has there is free.
    """
    page = tmp_path / "failing.md"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page.write_text(PAGE.replace("PORT", str(taken.getsockname()[1])))
        with pytest.raises(AssertionError) as failed:
            list(guide_box.follow(page))
    for fact in ("/failing.md:24: exit status 1: false\n", "\nand now:\n", "a word in the journal"):
        assert fact in str(failed.value)
    assert "and on" not in str(failed.value)


def test_a_block_without_an_end_is_an_error() -> None:
    """It would be the rest of the page."""
    with pytest.raises(ValueError, match=r"^line 3: this block has no end$"):
        list(blocks("# Title\n\n```sh\ntrue\n"))
