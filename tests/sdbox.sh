#!/bin/bash
# A real systemd as PID 1 of a box of its own, over a copy-on-write view of this machine.
#
#   sdbox.sh boot DIR [PATH …]   boot it; print "up"; when stdin ends, leave nothing behind
#   sdbox.sh run DIR COMMAND …   run a command in it, as root
#
# Units are read from DIR/units.  What is written inside is gone with the box.  PATHs are on other
# file systems than / and are seen in it, read-only.  The network is the host's.
# Exit status 77: this machine cannot do that; why is on stderr.
set -euo pipefail

cannot() {
    echo "no systemd in a box: $*" >&2
    exit 77
}

boot() {
    local dir=$1 cgroups
    [ "$(id -u)" = 0 ] || cannot "needs root"
    [ -x /lib/systemd/systemd ] || cannot "systemd is not installed"
    unshare --mount --pid --ipc --uts --cgroup --fork true 2>/dev/null ||
        cannot "namespaces are not permitted here"
    cgroups=$(findmnt --noheadings --types cgroup2 --output TARGET | head -n 1)
    [ -n "$cgroups" ] || cannot "no cgroup2 is mounted"
    cgroup=$cgroups/sdbox-$$
    mkdir "$cgroup" 2>/dev/null || cannot "$cgroups is not writable"
    trap 'tear_down' EXIT
    trap 'exit 1' HUP INT TERM

    mkdir -p "$dir/units" "$dir/box"
    # --kill-child: whatever happens to us, PID 1 goes, and the kernel ends all that is under it.
    # The cgroup first, its namespace then: it becomes the root of what the box sees.
    unshare --mount --pid --ipc --uts --fork --kill-child --propagation private \
        "$BASH" -c 'echo $$ >"$1/cgroup.procs" && shift && exec unshare --cgroup "$@"' - \
        "$cgroup" "$BASH" "$0" init "$@" </dev/null >"$dir/console" 2>&1 &
    outer=$!
    wait_until_up "$dir"
    echo up
    read -r _ || true # the caller closes our stdin, or has died
}

wait_until_up() {
    local dir=$1 tries
    for tries in {1..600}; do
        kill -0 "$outer" 2>/dev/null || cannot "systemd ended: $(tail -n 3 "$dir/console")"
        tr -d ' ' <"/proc/$outer/task/$outer/children" >"$dir/pid" 2>/dev/null || true
        case $(run "$dir" systemctl is-system-running 2>/dev/null) in
        running | degraded) return ;;
        esac
        sleep 0.05
    done
    cannot "systemd is not up after $tries looks: $(tail -n 3 "$dir/console")"
}

tear_down() {
    local tries
    if [ -n "${outer:-}" ]; then
        kill -KILL "$outer" 2>/dev/null || true
        wait "$outer" 2>/dev/null || true
    fi
    for tries in {1..1500}; do
        grep -q 'populated 0' "$cgroup/cgroup.events" && break
        sleep 0.02
    done
    find "$cgroup" -depth -type d -exec rmdir {} \; || echo "left behind: $cgroup" >&2
}

# From here on: PID 1 of the new namespaces, on the way to becoming systemd.
init() {
    local dir=$1 root=$1/box/root path
    shift
    # Never on the plain root: systemd-tmpfiles would empty the machine's own /tmp.
    mount -t tmpfs box "$dir/box"
    mkdir "$dir"/box/{upper,work,root}
    mount -t overlay box -o "lowerdir=/,upperdir=$dir/box/upper,workdir=$dir/box/work" "$root"
    for path in "$dir/units" "$@"; do # an overlay does not show what is mounted below its lower
        mkdir -p "$root$path"
        mount --bind "$path" "$root$path"
        mount -o remount,bind,ro "$root$path"
    done
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys" # the host's settings: to be read only
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sys "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    devices "$root/dev"
    mount -t tmpfs -o mode=755 run "$root/run"
    few_units "$root/run/units"
    mkdir "$root/run/host"
    cd "$root"
    pivot_root . run/host
    # shellcheck disable=SC2016
    exec chroot . /bin/sh -c 'umount -l /run/host; exec env -i PATH="$PATH" container=box \
        SYSTEMD_UNIT_PATH="/run/units:$0/units" \
        SYSTEMD_GENERATOR_PATH=/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/none \
        /lib/systemd/systemd --unit=multi-user.target --show-status=no --log-target=journal' "$dir"
}

devices() {
    local dev=$1 name
    mount -t tmpfs -o mode=755 dev "$dev"
    mkdir "$dev"/{pts,shm}
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$dev/pts"
    mount -t tmpfs shm "$dev/shm"
    ln -s pts/ptmx "$dev/ptmx"
    ln -s /proc/self/fd "$dev/fd"
    for name in null zero full random urandom tty; do
        : >"$dev/$name"
        mount --bind "/dev/$name" "$dev/$name"
    done
}

# Only what a service needs, or the box would start whatever this machine has installed.
few_units() {
    local units=$1 name
    mkdir -p "$units/multi-user.target.wants"
    for name in {sysinit,basic,sockets,timers,paths,slices,local-fs,network,multi-user}.target \
        {shutdown,umount,final}.target systemd-journald{.service,.socket,-dev-log.socket}; do
        ln -s "/lib/systemd/system/$name" "$units/$name"
    done
    ln -s ../systemd-journald.service "$units/multi-user.target.wants/"
}

run() {
    local dir=$1
    shift
    nsenter --target "$(cat "$dir/pid")" --mount --pid --cgroup --ipc --uts \
        env --chdir=/ -u DBUS_SESSION_BUS_ADDRESS -u XDG_RUNTIME_DIR "$@"
}

usage() {
    sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

[ $# -ge 2 ] || usage
verb=$1
dir=$(readlink -m "$2")
shift 2
case $verb in
boot | init | run) "$verb" "$dir" "$@" ;;
*) usage ;;
esac
