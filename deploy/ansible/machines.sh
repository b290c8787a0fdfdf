# Clean Debians with systemd, for deploy/try-ansible and deploy/cloud-init/try, which source this from the top of the tree, as root.
# Each machine is a directory, a network namespace and a process namespace of its own. One more namespace is the network of whoever
# asks them: 10.77.0.9.
# shellcheck shell=bash

place=$(mktemp -d)
id=ra$$
declare -A address=([control]=10.77.0.9) init
started=()

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'not as it should be: %s\n' "$*" >&2
    exit 1
}

# Installs what is missing of PROGRAM:PACKAGE.
need() {
    local pair missing=
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    [ -n "$missing" ] || return 0
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing >/dev/null
}

clean() {
    local machine mounted pid
    set +e
    for pid in "${started[@]}" "${init[@]}"; do kill -KILL "$pid" 2>/dev/null; done
    # What is mounted last goes first.
    awk -v place="$place/" 'index($5, place) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
        while read -r mounted; do umount -l "$mounted"; done
    ip netns del "$id-switch" 2>/dev/null
    for machine in "${!address[@]}"; do
        ip netns del "$id-$machine" 2>/dev/null
        # What is in it needs a moment to be gone.
        for _ in $(seq 50); do
            [ -d "$groups/$id-$machine" ] || break
            find "$groups/$id-$machine" -depth -type d -exec rmdir {} + 2>/dev/null
            sleep 0.1
        done
    done
    rm -rf "$place"
}

# Runs a program on a machine.
on() {
    local machine=$1
    shift
    nsenter --target "${init[$machine]}" --mount --pid --uts --ipc --net --cgroup --root --wd \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
}

# Runs a program here, in their network.
among_them() { nsenter --net="/run/netns/$id-control" "$@"; }

# A network namespace called $1, with the address $2.
network() {
    ip netns add "$id-$1"
    ip link add eth0 netns "$id-$1" type veth peer name "to-$1" netns "$id-switch"
    ip -n "$id-switch" link set "to-$1" master bridge up
    ip -n "$id-$1" addr add "$2/24" dev eth0
    ip -n "$id-$1" link set lo up
    ip -n "$id-$1" link set eth0 up
    ip -n "$id-$1" route add default dev eth0
    address[$1]=$2
}

# What all machines begin as: this machine's release of Debian, with packages besides: first what debootstrap can install, then what
# only apt can. They themselves have no way to a mirror.
debian() {
    local release included=$1
    shift
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    say "a clean Debian $release"
    debootstrap --variant=minbase --include="systemd,systemd-sysv,dbus,procps,iproute2,$included" "$release" "$place/root" >"$place/log" ||
        { tail "$place/log" >&2; exit 1; }
    if [ "$#" -gt 0 ]; then
        cp /etc/resolv.conf "$place/root/etc/"
        chroot "$place/root" sh -ec 'apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@"' \
            install "$@" >"$place/log" 2>&1 || { tail "$place/log" >&2; exit 1; }
    fi
    ip netns add "$id-switch"
    ip -n "$id-switch" link add bridge type bridge
    ip -n "$id-switch" link set bridge up
    network control "${address[control]}"
}

# Makes the machine $1 in $place/$1, which does not run yet.
machine() {
    local root=$place/$1
    mkdir -p "$root" "$root.upper"
    # An overlay on tmpfs, for the place may be on one itself.
    mount -t tmpfs none "$root.upper"
    mkdir "$root.upper/up" "$root.upper/work"
    mount -t overlay -o "lowerdir=$place/root,upperdir=$root.upper/up,workdir=$root.upper/work" none "$root"
    echo "$1" >"$root/etc/hostname"
}

# A real disk on the machine $1, at /srv/disk: a source must be one.
disk() {
    truncate -s 400M "$place/disk"
    mkfs.ext4 -q "$place/disk"
    mkdir -p "$place/$1/srv/disk"
    mount -o loop "$place/disk" "$place/$1/srv/disk"
}

# Starts the machine $1 with the address $2.
boot() {
    local machine=$1
    network "$machine" "$2"
    mkdir "$groups/$id-$machine"
    (
        echo "$BASHPID" >"$groups/$id-$machine/cgroup.procs"
        exec nsenter --net="/run/netns/$id-$machine" unshare --mount --pid --fork --uts --ipc --cgroup --propagation private \
            --kill-child "$place/boot" "$place/$machine" "$machine"
    ) >"$place/$machine.log" 2>&1 &
    started+=($!)
    disown
    for _ in $(seq 100); do
        init[$machine]=$(pgrep --parent "${started[-1]}" || true)
        [ -z "${init[$machine]}" ] || return 0
        sleep 0.1
    done
    fail "$machine did not start: $(cat "$place/$machine.log")"
}

# Waits until all of the machine $1 runs.
booted() {
    local state
    for _ in $(seq 600); do
        state=$(on "$1" systemctl is-system-running 2>/dev/null || true)
        [ "$state" != running ] || return 0
        sleep 0.2
    done
    fail "$1 is $state: $(on "$1" systemctl --failed 2>&1)"
}

# In namespaces of its own: mounts what a machine has, and becomes its service manager.
cat >"$place/boot" <<'BOOT'
#!/bin/bash
set -eu
root=$1 name=$2
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
# This machine's settings are not theirs.
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty fuse; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
hostname "$name"
exec chroot "$root" env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 /lib/systemd/systemd
BOOT
chmod +x "$place/boot"

# Where systemd keeps its services apart: version 2 of cgroups, or a hierarchy of its own beside version 1.
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    groups=/sys/fs/cgroup
else
    groups=/sys/fs/cgroup/systemd
fi
[ -d "$groups" ] || fail "there are no cgroups for systemd here"
packages=(target/packages/rampool-server_*.deb target/packages/rampool_*.deb)
for package in "${packages[@]}"; do
    [ -f "$package" ] || fail "there is no $package; run make packages"
done
trap clean EXIT
