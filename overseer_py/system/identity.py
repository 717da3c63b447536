"""Users and groups by name or number.  getpwnam(3), getgrnam(3), initgroups(3)."""

from __future__ import annotations

import grp
import os
import pwd

from overseer_py.errors import ConfigError
from overseer_py.system import procfs
from overseer_py.system.launch import Identity

_NEEDED = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}  # of root's, capabilities(7)
_NOBODY_EVER = 2**32 - 1  # (uid_t) -1 means "leave it as it is" to chown(2) and setresuid(2)


def uid_of(user: str) -> int:
    """Return the number of a user given by name or number."""
    return int(user) if _is_number(user) else _account(user).pw_uid


def gid_of(group: str) -> int:
    """Return the number of a group given by name or number."""
    if _is_number(group):
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"group {group}: no such group") from None


def identity_of(user: str, group: str) -> Identity | None:
    """Return whom the workers run as; None if that is whom the master runs as."""
    if not user and not group:
        return None
    account = _account_of(user) if user else None
    uid = uid_of(user) if user else os.geteuid()
    gid = gid_of(group) if group else account.pw_gid if account else uid
    groups = tuple(os.getgrouplist(account.pw_name, gid)) if account else (gid,)
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return None
    who = f"user {user}" if user else f"group {group}"
    if os.geteuid() != 0:
        raise ConfigError(f"{who}: only root can run workers as somebody else; start it as root")
    ours = procfs.capabilities()
    if lacking := [name for name, number in _NEEDED.items() if number not in ours]:
        why = f"to start and to end workers as somebody else root needs {' and '.join(lacking)}"
        raise ConfigError(f"{who}: {why}; add it to the CapabilityBoundingSet= of the unit")
    return Identity(uid, gid, groups)


def home_of(user: str) -> dict[str, str]:
    """Return the variables that a login as this user would set, as systemd's User= does."""
    account = _account_of(user) if user else None
    if account is None:
        return {}
    return {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}


def _is_number(text: str) -> bool:
    """Whether this is written as a number, and one that a user or a group may have."""
    return text.isdecimal() and len(text) <= 10 and int(text) < _NOBODY_EVER  # noqa: PLR2004


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"user {user}: no such user") from None


def _account_of(user: str) -> pwd.struct_passwd | None:
    """Return the account; None for a number that has none."""
    if not _is_number(user):
        return _account(user)
    try:
        return pwd.getpwuid(int(user))
    except KeyError:
        return None
