#!/usr/bin/env bash
# Makes the virtual environment that the other scripts run in, or finds it ready (0.1 s), and prints its path.
#
#     bash dev/setup.sh          what a run needs
#     bash dev/setup.sh --dev    with the tools of dev/test.sh
#
# The path goes to standard output, everything else to standard error: venv="$(bash dev/setup.sh)".
# Exit code 2 says in one line what is missing on this machine; 1: pip failed, the end of its output is shown.
#
# Environment:
#   LLAMA31_VENV    where to make it (default: .venv in the checkout)
#   LLAMA31_PYTHON  the Python to make it with (default: python3, or else python3.12, 3.11, 3.10; the first that works)
#   pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...) and pip.conf are honoured.
#
# Cost on 2 cores: 2.6 minutes and 2.7 GB with torch's CPU build; 6 minutes and 6.2 GB with its CUDA build, which plain
# pip takes even without a GPU. To have the CPU build, point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at a place with
# torch's CPU wheels: of one version, pip prefers the wheel that is marked +cpu.
#
# Two files in the environment say what it is. llama31-venv is made first: this directory is ours, to be removed when it
# is stale. llama31-ready is made last: installed and checked; it holds what was installed. An environment without it,
# or with another one than today's requirements ask for, is made anew, so an interrupted set-up is never used.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$(realpath -m -- "${LLAMA31_VENV:-$root/.venv}")"
python="$venv/bin/python"
log="$venv.log"

# --- Is it ready? -------------------------------------------------------------------------------------------------

version_of() { # COMMAND: prints MAJOR.MINOR, or nothing if the command does not work
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null || true
}

wanted_stamp() { # PYTHON_VERSION WITH_DEV: all that the installation depends on
    printf 'python %s\nat %s\nwith dev tools: %s\n' "$1" "$venv" "$2"
    (cd "$root" && sha256sum requirements*.txt requirements.lock)
}

is_ready() { # WITH_DEV: is all there that was asked for?
    local have version
    [[ -f $venv/llama31-ready && -x $python ]] || return 1
    version="$(version_of "$python")"
    if [[ -n ${LLAMA31_PYTHON:-} && $(version_of "$LLAMA31_PYTHON") != "$version" ]]; then return 1; fi
    have="$(<"$venv/llama31-ready")"
    [[ $have == "$(wanted_stamp "$version" yes)" || ($1 == no && $have == "$(wanted_stamp "$version" no)") ]]
}

# --- A place for it, and a Python ---------------------------------------------------------------------------------

take_the_place() { # One set-up at a time, in a directory that is nobody else's.
    if [[ -e $venv && ! -f $venv/llama31-venv ]] && [[ ! -d $venv || -n $(ls -A -- "$venv") ]]; then
        fail "$venv was not made by dev/setup.sh and is left alone; move it away or set LLAMA31_VENV to another path"
    fi
    command -v flock >/dev/null || fail "flock is not installed (Debian: apt-get install util-linux)"
    { mkdir -p -- "${venv%/*}/" && true >>"$venv.lock"; } 2>/dev/null ||
        fail "cannot write to ${venv%/*}/; set LLAMA31_VENV to another path"
    # pip inherits the lock: should this script be killed and pip live on, the next set-up waits for pip's end.
    exec 9>"$venv.lock"
    if ! flock -n 9; then
        say "another set-up is at work on $venv; waiting for it"
        flock 9
    fi
}

find_python() { # prints the command to use
    local candidate version reasons seen=() candidates=(python3 python3.12 python3.11 python3.10)
    if [[ -n ${LLAMA31_PYTHON:-} ]]; then candidates=("$LLAMA31_PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        version="$(version_of "$candidate")" # by running it: a pyenv shim may stand for a version that is not active
        case "$version" in
            "") ;;
            3.10 | 3.11 | 3.12)
                if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                    printf '%s\n' "$candidate"
                    return
                fi
                seen+=("$candidate $version lacks the venv module (Debian: apt-get install python$version-venv)")
                ;;
            *) seen+=("$candidate is $version") ;;
        esac
    done
    ((${#seen[@]})) || seen=("${candidates[*]}: none works")
    printf -v reasons '%s; ' "${seen[@]}"
    fail "no Python 3.10, 3.11 or 3.12 with venv: ${reasons}install one (Debian: apt-get install python3 python3-venv)" \
        "or set LLAMA31_PYTHON"
}

# --- Make it ------------------------------------------------------------------------------------------------------

logged() { # COMMAND...: its output to the log; its end to the user if it fails
    "$@" </dev/null >>"$log" 2>&1 || give_up "$*"
}

give_up() { # WHAT
    if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
    tail -n 15 -- "$log" >&2
    say "$1 failed; the whole output is in $log"
    exit 1
}

pip_install() { # ARGUMENTS of pip install: everything goes to the log, the stages to the user
    local began=$SECONDS line packages=0
    "$python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
        --constraint "$root/requirements.lock" "$@" </dev/null 2>&1 | while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        case "$line" in
            "Collecting "* | "Processing "*)
                packages=$((packages + 1))
                if [[ -t 2 ]]; then
                    line="${line#* }"
                    line="${line%% *}"
                    printf '\rsetup: %d s, package %d: %.40s\033[K' $((SECONDS - began)) "$packages" "${line##*/}" >&2
                fi
                ;;
            "Installing collected packages"*)
                if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
                if ((packages > 1)); then say "fetched $packages packages in $((SECONDS - began)) s; installing them"; fi
                ;;
        esac
    done || give_up "pip"
}

main() { # A function, so that an edit of this file does not disturb a set-up under way.
    local base build_tool began with_dev=no
    case "$*" in
        "") ;;
        --dev) with_dev=yes ;;
        *) fail "unknown arguments: $*; what works: bash dev/setup.sh [--dev]" ;;
    esac
    # Nothing of the caller's Python may leak into the environment or keep pip from installing there.
    unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_DRY_RUN

    if is_ready "$with_dev"; then
        printf '%s\n' "$venv"
        return
    fi
    take_the_place
    if is_ready "$with_dev"; then # another set-up has made it meanwhile
        printf '%s\n' "$venv"
        return
    fi

    trap 'say "interrupted; the next call starts anew"; exit 130' INT
    began=$SECONDS
    rm -f -- "$log"
    if [[ $with_dev == yes ]] && is_ready no; then
        say "adding the tools of dev/test.sh to $venv"
        rm -f -- "$venv/llama31-ready" # until they are all there
    else
        base="$(find_python)"
        if [[ -f $venv/llama31-venv ]]; then
            say "$venv is unfinished or stale; making it anew"
            # The mark stays to the end, so that an interrupted removal is known as ours.
            find "$venv" -mindepth 1 -maxdepth 1 ! -name llama31-venv -exec rm -rf -- {} +
        fi
        mkdir -p -- "$venv"
        : >"$venv/llama31-venv"
        say "making $venv with $base $(version_of "$base"): 2 to 5 minutes and 3 GB, twice that with CUDA (log: $log)"
        logged "$base" -m venv -- "$venv"
        # The few packages without a wheel are built with the pinned setuptools, not with the newest.
        if build_tool="$(grep -Eo '^setuptools==[^ ;#]+' "$root/requirements.lock")"; then pip_install "$build_tool"; fi
        pip_install --no-build-isolation --use-pep517 --requirement "$root/requirements.txt"
    fi
    if [[ $with_dev == yes ]]; then pip_install --requirement "$root/requirements-dev.txt"; fi

    logged "$python" -m pip check
    wanted_stamp "$(version_of "$python")" "$with_dev" >"$venv/llama31-ready.tmp"
    mv -- "$venv/llama31-ready.tmp" "$venv/llama31-ready"
    say "ready after $((SECONDS - began)) s: $venv"
    printf '%s\n' "$venv"
}

main "$@"
exit # before bash reads on
