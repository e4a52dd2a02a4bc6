#!/usr/bin/env bash
# Makes the virtual environment for the other scripts, unless it is ready (0.1 s), and prints its path.
#
#     bash dev/setup.sh          packages for runs
#     bash dev/setup.sh --dev    also the tools of dev/test.sh
#
# The path goes to standard output, everything else to standard error: venv="$(bash dev/setup.sh)".
# Exit code 2: something is missing on this machine, a line says what; 1: pip failed, the end of its output is shown.
#
# Environment:
#   LLAMA31_VENV    where to make it (default: .venv in the checkout)
#   LLAMA31_PYTHON  the Python to use (default: the first usable one of python3, python3.12, 3.11, 3.10)
#   pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...) and pip.conf are respected.
#
# Cost on 2 cores: 2.6 minutes and 2.7 GB with torch's CPU build; 6 minutes and 6.2 GB with its CUDA build, which pip
# chooses by default, even without a GPU. For the CPU build, set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to a location of
# torch's CPU wheels: pip prefers the wheel marked +cpu of the same version.
#
# Two files in the environment record its state. llama31-venv is made first: the directory is ours and may be removed
# when it is stale. llama31-ready is made last, after installation and checks, and holds the requirements that were
# installed. An environment without it, or with other requirements than today's, is rebuilt, so an interrupted set-up
# is never used.
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

version_of() { # COMMAND: prints MAJOR.MINOR, or nothing if the command fails
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null || true
}

wanted_stamp() { # PYTHON_VERSION WITH_DEV: everything that the installation depends on
    printf 'python %s\nat %s\nwith dev tools: %s\n' "$1" "$venv" "$2"
    (cd "$root" && sha256sum requirements*.txt requirements.lock)
}

is_ready() { # WITH_DEV: is the requested environment complete?
    local have version
    [[ -f $venv/llama31-ready && -x $python ]] || return 1
    version="$(version_of "$python")"
    if [[ -n ${LLAMA31_PYTHON:-} && $(version_of "$LLAMA31_PYTHON") != "$version" ]]; then return 1; fi
    have="$(<"$venv/llama31-ready")"
    [[ $have == "$(wanted_stamp "$version" yes)" || ($1 == no && $have == "$(wanted_stamp "$version" no)") ]]
}

# --- Directory and Python ----------------------------------------------------------------------------------------

claim_directory() { # One set-up at a time, in a directory of our own.
    if [[ -e $venv && ! -f $venv/llama31-venv ]] && [[ ! -d $venv || -n $(ls -A -- "$venv") ]]; then
        fail "$venv was not made by dev/setup.sh and is kept; move it or set LLAMA31_VENV to another path"
    fi
    command -v flock >/dev/null || fail "flock is not installed (Debian: apt-get install util-linux)"
    { mkdir -p -- "${venv%/*}/" && true >>"$venv.lock"; } 2>/dev/null ||
        fail "cannot write to ${venv%/*}/; set LLAMA31_VENV to another path"
    # pip inherits the lock: if this script is killed while pip runs, the next set-up waits for pip.
    exec 9>"$venv.lock"
    if ! flock -n 9; then
        say "another set-up is running for $venv; waiting for it"
        flock 9
    fi
}

find_python() { # prints the command to use
    local candidate version reasons seen=() candidates=(python3 python3.12 python3.11 python3.10)
    if [[ -n ${LLAMA31_PYTHON:-} ]]; then candidates=("$LLAMA31_PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        version="$(version_of "$candidate")" # by running it: a pyenv shim may belong to a version that is not active
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
    ((${#seen[@]})) || seen=("${candidates[*]}: not found")
    printf -v reasons '%s; ' "${seen[@]}"
    fail "no Python 3.10, 3.11 or 3.12 with venv: ${reasons}install one (Debian: apt-get install python3 python3-venv)" \
        "or set LLAMA31_PYTHON"
}

# --- Make it ------------------------------------------------------------------------------------------------------

logged() { # COMMAND...: sends its output to the log, and shows the end of it if the command fails
    "$@" </dev/null >>"$log" 2>&1 || give_up "$*"
}

give_up() { # WHAT
    if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
    tail -n 15 -- "$log" >&2
    say "$1 failed; the whole output is in $log"
    exit 1
}

pip_install() { # ARGUMENTS of pip install: sends its output to the log, and shows progress
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

main() { # A function, so that editing this file does not affect a running set-up.
    local base build_tool began with_dev=no
    case "$*" in
        "") ;;
        --dev) with_dev=yes ;;
        *) fail "unknown arguments: $*; usage: bash dev/setup.sh [--dev]" ;;
    esac
    # The caller's Python settings must not leak into the environment or prevent pip from installing there.
    unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_DRY_RUN

    if is_ready "$with_dev"; then
        printf '%s\n' "$venv"
        return
    fi
    claim_directory
    if is_ready "$with_dev"; then # another set-up has just made it
        printf '%s\n' "$venv"
        return
    fi

    trap 'say "interrupted; the next call starts over"; exit 130' INT
    began=$SECONDS
    rm -f -- "$log"
    if [[ $with_dev == yes ]] && is_ready no; then
        say "adding the tools of dev/test.sh to $venv"
        rm -f -- "$venv/llama31-ready" # until all are installed
    else
        base="$(find_python)"
        if [[ -f $venv/llama31-venv ]]; then
            say "$venv is incomplete or stale; making it again"
            # llama31-venv is kept, so that the directory is still ours after an interrupted removal.
            find "$venv" -mindepth 1 -maxdepth 1 ! -name llama31-venv -exec rm -rf -- {} +
        fi
        mkdir -p -- "$venv"
        : >"$venv/llama31-venv"
        say "making $venv with $base $(version_of "$base"): 2 to 5 minutes and 3 GB, twice that with CUDA (log: $log)"
        logged "$base" -m venv -- "$venv"
        # Packages without a wheel are built with the pinned setuptools instead of the newest.
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
exit # before bash reads further lines
