#!/usr/bin/env bash
# Programs of another Debian release on this machine, beside its own. Needs root.
#
#     bash dev/debian_chroot.sh make RELEASE ROOT PACKAGE...   installs a release, such as trixie or sid, with packages in a
#                                                              new directory ROOT; does nothing if that is there already
#     bash dev/debian_chroot.sh run ROOT FROM TO COMMAND...    runs a command there, and all that it starts
#
# The command has the programs, libraries and /etc of ROOT, and under their own paths all other files of this machine:
# its top-level directories but for the system's own (/usr, /etc, /var, ...), /usr/local, /var/tmp, and who its users
# and hosts are. Directory TO shows what FROM has. Processes are those of this machine.
#
# What is mounted for it is seen by the command and its children alone, and is gone with the last of them: nothing is
# to be unmounted, and removing ROOT removes no file of this machine. Packages come from the mirror of this machine's
# apt. ROOT gets its name when it is complete. Exit code 2: it cannot be done here; one line says why. `make`: a minute,
# and 600 MB on the disk.
set -euo pipefail

system=(bin boot etc lib lib32 lib64 libx32 sbin usr var run lost+found)
shown=(/usr/local /var/tmp /etc/passwd /etc/group /etc/hosts /etc/resolv.conf)

fail() {
    printf 'debian_chroot: %s\n' "$*" >&2
    exit 2
}

mirror() { # prints the address from which this machine's apt gets Debian
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian Debian //p' | head -n 1
}

make_root() { # RELEASE ROOT PACKAGE...
    local release="$1" root="$2" partial address
    shift 2
    [[ ! -e $root ]] || return 0
    command -v debootstrap >/dev/null || fail "debootstrap is not installed; apt-get install debootstrap"
    address="$(mirror)"
    [[ -n $address ]] || fail "apt of this machine has no Debian mirror among its sources"
    mkdir -p -- "${root%/*}"
    partial="$(mktemp -d -- "$root.XXXXXX.partial")"
    trap 'rm -rf --one-file-system -- "$partial"' EXIT
    {
        chmod 755 "$partial"
        unshare --mount debootstrap --variant=minbase "$release" "$partial" "$address" && # it mounts some, too
            printf '#!/bin/sh\nexit 101\n' >"$partial/usr/sbin/policy-rc.d" && # packages start no daemons
            chmod 755 "$partial/usr/sbin/policy-rc.d" &&
            DEBIAN_FRONTEND=noninteractive chroot "$partial" apt-get install -q --yes --no-install-recommends "$@"
    } >"$root.log" 2>&1 </dev/null || fail "$release cannot be installed; see $root.log"
    mv -T -- "$partial" "$root"
    trap - EXIT
}

run() { # ROOT FROM TO COMMAND...: in a mount namespace of its own
    local root="$1" from="$2" to="$3" path
    shift 3
    mount --bind -- "$root" "$root"
    for path in /*; do
        if [[ " ${system[*]} " == *" ${path#/} "* ]]; then
            continue
        elif [[ -L $path ]]; then
            [[ -L $root$path ]] || cp --no-dereference -- "$path" "$root/"
        else
            shown+=("$path")
        fi
    done
    for path in "${shown[@]}"; do
        [[ -e $path ]] || continue
        if [[ -d $path ]]; then mkdir -p -- "$root$path"; elif [[ ! -e $root$path ]]; then touch -- "$root$path"; fi
        mount --rbind -- "$(realpath -- "$path")" "$root$path"
    done
    [[ -d $root$to ]] || fail "$to: below a directory of the system's; use another one, such as below /tmp"
    mount --bind -- "$from" "$root$to"
    cd -- "$root"
    pivot_root . boot # in a chroot no process could make a user namespace, as Apptainer and enroot do
    umount --lazy /boot
    cd /
    exec "$@"
}

((EUID == 0)) || fail "needs root"
case "${1:-}" in
    make) make_root "${@:2}" ;;
    run) exec unshare --mount --propagation slave -- bash "${BASH_SOURCE[0]}" mounted "${@:2}" ;;
    mounted) run "${@:2}" ;;
    *) fail "unknown command: ${1:-none}; what works: make, run" ;;
esac
