#!/usr/bin/env bash
# Runs programs of another Debian release on this machine. Needs root.
#
#     bash dev/debian_chroot.sh make RELEASE ROOT PACKAGE...   installs a release, such as trixie or sid, with packages in a
#                                                              new directory ROOT; does nothing if it exists
#     bash dev/debian_chroot.sh run ROOT FROM TO COMMAND...    runs a command there, with its children
#
# The command sees the programs, libraries and /etc of ROOT, and all other files of this machine under their own paths:
# its top-level directories except those of the system (/usr, /etc, /var, ...), /usr/local, /var/tmp, and its users and
# hosts. Directory TO shows the contents of FROM. Processes are those of this machine.
#
# Only the command and its children see these mounts, which disappear with the last of them: nothing needs to be
# unmounted, and removing ROOT removes no file of this machine. Packages come from the mirror of this machine's apt.
# ROOT gets its name when it is complete. Exit code 2: not possible here; a line says why. `make` takes a minute and
# 600 MB of disk.
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
    [[ -n $address ]] || fail "the apt sources of this machine name no Debian mirror"
    mkdir -p -- "${root%/*}"
    partial="$(mktemp -d -- "$root.XXXXXX.partial")"
    trap 'rm -rf --one-file-system -- "$partial"' EXIT
    {
        chmod 755 "$partial"
        unshare --mount debootstrap --variant=minbase "$release" "$partial" "$address" && # debootstrap mounts file systems itself
            printf '#!/bin/sh\nexit 101\n' >"$partial/usr/sbin/policy-rc.d" && # so that packages start no daemons
            chmod 755 "$partial/usr/sbin/policy-rc.d" &&
            DEBIAN_FRONTEND=noninteractive chroot "$partial" apt-get install -q --yes --no-install-recommends "$@"
    } >"$root.log" 2>&1 </dev/null || fail "installing $release failed; see $root.log"
    mv -T -- "$partial" "$root"
    trap - EXIT
}

run() { # ROOT FROM TO COMMAND...: in a new mount namespace
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
    [[ -d $root$to ]] || fail "$to: below a system directory; use another one, such as below /tmp"
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
    *) fail "unknown command: ${1:-none}; expected: make, run" ;;
esac
