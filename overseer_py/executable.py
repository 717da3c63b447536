"""Which file a program is: looked up once for a generation, the same for each of its respawns.

Links on the way to it (``current``) may be flipped at any time; who is started again must be what
the others of its generation are.  So the real file is executed, and by a name whose directory is
real, too.  The last part of the name stays as it is: the ``python`` of a virtual environment is a
link, and finds ``pyvenv.cfg`` by where the link lies; others ask how they were called.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from overseer_py.system.launch import Identity


class Executable(NamedTuple):
    """A program that was found."""

    path: str  # absolute, and as it was asked for: with its links
    name: str  # argv[0]: the same in its real directory
    file: str  # what is executed


def look_up(
    program: str, search: str, directory: str, identity: Identity | None
) -> Executable | None:
    """Return the program as a worker in this directory finds it; None if there is none.

    ``search`` is PATH, and counts for a program without a slash (execvp(3)).  A file that the
    worker's user may not execute is taken if there is no other one.
    """
    entries = [""] if "/" in program else search.split(os.pathsep)
    paths = [os.path.join(directory, entry, program) for entry in entries]
    found = [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]
    found.sort(key=lambda path: not _may_execute(identity, os.path.realpath(path)))
    if not found:
        return None
    parent, name = os.path.split(found[0])
    pinned = os.path.join(os.path.realpath(parent), name)
    return Executable(found[0], pinned, os.path.realpath(found[0]))


def _may_execute(identity: Identity | None, file: str) -> bool:
    """Whether mode and owner of a file, and of the directories above it, let somebody execute it.

    Access control lists are not looked at: this is a preference, the kernel decides.
    """
    if identity is None or identity.uid == 0:
        return True
    while file != "/":
        found = os.stat(file)
        mine = found.st_gid in (identity.gid, *identity.groups)
        shift = 6 if found.st_uid == identity.uid else 3 if mine else 0
        if not found.st_mode >> shift & 1:
            return False
        file = os.path.dirname(file)
    return True
