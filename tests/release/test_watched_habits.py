"""``--watch``: how editors and tools write, and what they leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need
from tests.release.watching import replace, watching

pytestmark = pytest.mark.filterwarnings("ignore:Callback with id")  # watchdog's


def test_droppings_do_not_count(tmp_path: Path, tree: Path) -> None:
    """What editors, git and Python leave beside the files that are meant; by any pattern."""
    (tree / "__pycache__").mkdir()
    (tree / ".git").mkdir()
    for pattern in (tree, tree / "*", tree / "**" / "*"):
        with watching(tmp_path, pattern) as watch:
            for name in (
                "main.py~",
                ".main.py.swp",
                ".main.py.swx",
                "4913",
                "#main.py#",
                "main.py___jb_tmp___",
                "main.py___jb_old___",
                ".goutputstream-A1B2C3",
                "main.pyc",
                "__pycache__/main.cpython-311.pyc",
                "__pycache__/main.cpython-311.pyc.140703",
                ".git/index.lock",
                ".git/HEAD",
            ):
                (tree / name).write_text(f"{pattern}\n")
                assert watch.told() == "", name
            (tree / ".#main.py").symlink_to("user@host.1234:1700000000")  # emacs' lock
            assert watch.told() == ""
            (tree / ".#main.py").unlink()
            assert watch.told() == ""


def test_what_is_named_counts_whatever_its_name(tmp_path: Path, tree: Path) -> None:
    """A path that is given is meant, also in .git, beside a pattern or not."""
    head = tree / ".git" / "HEAD"
    head.parent.mkdir()
    head.write_text("ref: refs/heads/main\n")
    with watching(tmp_path, head, tree / "*.py") as watch:
        replace(head, "ref: refs/heads/other\n", ".lock")
        watch.tells_once(head)
    with watching(tmp_path, head.parent) as watch:
        head.write_text("ref: refs/heads/third\n")
        watch.tells_once(head)


def test_vim(tmp_path: Path, tree: Path) -> None:
    """It tries whether it may write (4913), moves the file aside, writes anew, and cleans up."""
    vim, main = need("vim"), tree / "main.py"
    for number, how in enumerate(("backupcopy=no", "backupcopy=yes", "nowritebackup")):
        with watching(tmp_path, tree) as watch:
            command = [vim, "-u", "NONE", "-N", "-es", "-c", f"set {how}"]
            subprocess.run(
                [*command, "-c", f"normal Go# by vim {number}", "-c", "wq", main],
                stdin=subprocess.DEVNULL,
                check=True,
            )
            watch.tells_once(main)
            assert f"by vim {number}" in main.read_text()


def test_sed(tmp_path: Path, tree: Path) -> None:
    """``sed -i`` writes beside and renames."""
    with watching(tmp_path, tree / "main.py") as watch:
        subprocess.run([need("sed"), "-i", "s/main/other/", tree / "main.py"], check=True)
        watch.tells_once(tree / "main.py")
        subprocess.run([need("sed"), "-i", "s/nothing/else/", tree / "main.py"], check=True)
        assert watch.told() == ""


def test_git_checkout(tmp_path: Path, tree: Path) -> None:
    """Another branch: files change, come and go, and that is one change; all else is none."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run([need("git"), "-C", tree, *identity, *arguments], check=True)

    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "--message=one")
    git("checkout", "--quiet", "-b", "other")
    (tree / "main.py").write_text("# other\n")
    (tree / "package" / "code.py").unlink()
    (tree / "more").mkdir()
    (tree / "more" / "code.py").write_text("# more\n")
    git("add", "--all")
    git("commit", "--quiet", "--message=two")
    with watching(tmp_path, tree) as watch:
        git("checkout", "--quiet", "main")
        watch.tells_once(tree / "main.py")
        git("status", "--short")
        git("gc", "--quiet")
        assert watch.told() == ""
        git("checkout", "--quiet", "other")
        watch.tells_once(tree / "main.py")


def test_pip_install(tmp_path: Path) -> None:
    """Into a directory, and again: what it wrote counts once, what it compiled does not."""
    place, source = tmp_path / "site", tmp_path / "source"
    place.mkdir()
    source.mkdir()
    wheel = "from pathlib import Path\nimport sys,zipfile\n" + WHEEL

    def install(version: int) -> None:
        subprocess.run([sys.executable, "-c", wheel, str(version), source], check=True)
        file = str(source / f"thing-{version}-py3-none-any.whl")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-index", "--no-deps", "--upgrade", "--target", str(place), file]
        environ = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
        subprocess.run(pip, check=True, env=environ)

    install(1)
    with watching(tmp_path, place, debounce=0.5) as watch:
        install(2)
        told = watch.tells()
        assert told.startswith(str(place)), told
        assert watch.told() == ""
        assert (place / "thing.py").read_text() == "VERSION = 2\n"


WHEEL = """
version, place = sys.argv[1], Path(sys.argv[2])
info = f"thing-{version}.dist-info"
with zipfile.ZipFile(place / f"thing-{version}-py3-none-any.whl", "w") as wheel:
    wheel.writestr("thing.py", f"VERSION = {version}\\n")
    facts = f"Metadata-Version: 2.1\\nName: thing\\nVersion: {version}\\n"
    wheel.writestr(f"{info}/METADATA", facts)
    tag = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    wheel.writestr(f"{info}/WHEEL", tag)
    wheel.writestr(f"{info}/RECORD", f"thing.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n")
"""


def test_rsync(tmp_path: Path, tree: Path) -> None:
    """It writes beside and renames; with nothing to do it touches nothing that counts."""
    rsync, source = need("rsync"), tmp_path / "source"
    shutil.copytree(tree, source)
    with watching(tmp_path, tree, debounce=0.2) as watch:
        subprocess.run([rsync, "-a", "--delete", f"{source}/", f"{tree}/"], check=True)
        assert watch.told() == ""
        (source / "main.py").write_text("# by rsync\n")
        (source / "package" / "code.py").unlink()
        (source / "new.py").write_text("# new\n")
        for how in ("--delay-updates", "--inplace"):
            subprocess.run([rsync, "-a", "--delete", how, f"{source}/", f"{tree}/"], check=True)
            watch.tells_once(tree / "main.py")
            (source / "main.py").write_text("# by rsync, again\n")
            (source / "package" / "code.py").write_text("# back\n")
