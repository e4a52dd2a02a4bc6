#!/usr/bin/env bash
# A real Slurm cluster on this machine, with two virtual nodes n1 and n2, to test jobs.
#
#     bash dev/slurm_cluster.sh start [DIRECTORY]     starts it unless it runs; installs Debian's packages if needed
#     export SLURM_CONF=DIRECTORY/slurm.conf          for sbatch, srun, squeue, sinfo
#     bash dev/slurm_cluster.sh status [DIRECTORY]    exit code 0 if both nodes are ready for jobs
#     bash dev/slurm_cluster.sh stop [DIRECTORY]      stops its jobs and daemons
#     scancel --batch --signal=USR1 JOB               warns a job as Slurm does before its time limit
#
#     bash dev/slurm_cluster.sh start --release RELEASE[:ROOT] [DIRECTORY]
#     export PATH="DIRECTORY/bin:$PATH"               the same with the Slurm of another Debian release, such as trixie,
#                                                     installed in ROOT (default: DIRECTORY/RELEASE) in a minute;
#     LLAMA31_SLURM_RELEASE=RELEASE[:ROOT]            makes the tests use it
#
#     bash dev/slurm_cluster.sh start --networks [DIRECTORY]
#     bash dev/slurm_networks.sh cut DIRECTORY n2     n1 and n2 have networks of their own, one of which is cut off
#
# DIRECTORY (default: /tmp/llama31-slurm) holds the whole cluster: settings, munge's key and socket, state, logs.
# Several clusters can run at the same time in different directories. Needs root, because slurmd starts jobs as their
# users. Outside of DIRECTORY, except for packages and networks, it only adds a line to /etc/hosts with the address of n1
# and n2.
# Further settings are read from DIRECTORY/more.conf, and those of a node, such as Gres=gpu:4, from DIRECTORY/more.n1.
# Exit code 2: not possible here; a line says why. Start: 3 s, and 15 s to install the packages.
#
# With another release, all daemons and jobs run in ROOT and see all files of this machine outside of its system
# directories (dev/debian_chroot.sh). Only they see these mounts, which disappear with the last of them.
set -euo pipefail

here="$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")"
nodes=(n1 n2)
patience=60 # seconds to wait for daemons to start or stop

say() { printf 'slurm_cluster: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 2
}

# --- The parts of the cluster -------------------------------------------------------------------------------------

pid_of() { # NAME: prints the id of the daemon that we started under this name, if it runs
    local pid
    pid="$(cat -- "$dir/$1.pid" 2>/dev/null)" || return 1
    # The id may belong to another program now; ours have this directory in their command line.
    [[ -n $pid ]] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$dir/" && printf '%s\n' "$pid"
}

wait_for() { # WHAT COMMAND...: until the command succeeds
    local what="$1" deadline=$((SECONDS + patience))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then fail "$what: timed out after $patience s; see the logs in $dir"; fi
        sleep 0.1
    done
}

nodes_are_ready() {
    [[ $(sinfo --noheader --Node --partition=debug --format=%T | grep -cE '^(idle|mixed|allocated)$') == "${#nodes[@]}" ]]
}

in_root() { # COMMAND...: starts the first daemon; the programs in DIRECTORY/bin join its namespace
    if [[ -n $release ]]; then bash "$here/debian_chroot.sh" run "$root" "$dir/bin.inside" "$dir/bin" "$@"; else "$@"; fi
}

nothing_is_mounted() { # only processes in ROOT see a mount at DIRECTORY/bin
    ! grep -qsF -- " $dir/bin " /proc/[0-9]*/mountinfo
}

is_running() {
    local name
    for name in munged slurmctld "${nodes[@]/#/slurmd.}"; do pid_of "$name" >/dev/null || return 1; done
    nodes_are_ready
}

# --- start ----------------------------------------------------------------------------------------------------------

install_release() { # and links in DIRECTORY/bin to its programs, run in the cluster's namespace
    command -v debootstrap >/dev/null || apt_get debootstrap
    bash "$here/debian_chroot.sh" make "$release" "$root" slurm-wlm munge python3
    mkdir -- "$dir/bin" "$dir/bin.inside"
    cat >"$dir/bin/.enter" <<'ENTER'
#!/usr/bin/env bash
# Runs the program of Slurm that the link is named after in the namespace of the cluster of SLURM_CONF.
dir="$(dirname -- "$SLURM_CONF")"
pid="$(cat -- "$dir/munged.pid")" && grep -qsF -- " $dir/bin " "/proc/$pid/mountinfo" || {
    echo "${0##*/}: SLURM_CONF=$SLURM_CONF: no cluster of another release runs in this directory" >&2
    exit 1
}
exec nsenter --target "$pid" --mount -- env --chdir="$PWD" "${0##*/}" "$@"
ENTER
    chmod 755 "$dir/bin/.enter"
    local program name
    for program in $(chroot "$root" dpkg -L slurm-client slurmctld slurmd | grep -E '/s?bin/.'); do
        name="$(basename -- "$program" -wlm)"
        ln -s .enter "$dir/bin/$name"
        ln -s "$program" "$dir/bin.inside/$name" # visible at DIRECTORY/bin within the namespace
    done
}

apt_get() { # PACKAGE...
    command -v apt-get >/dev/null || fail "${1} is not installed, and there is no apt-get to install it"
    say "installing $*"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends "$@"; } \
        >"$dir/apt.log" 2>&1 || fail "apt-get failed; see $dir/apt.log"
}

install_packages() {
    local program
    for program in slurmctld slurmd munged sbatch; do
        if ! command -v "$program" >/dev/null; then
            apt_get slurm-wlm munge
            return
        fi
    done
}

free_ports() { # COUNT: prints this number of free ports
    python3 -c 'import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))' "$1"
}

address_of() { # NODE
    if [[ -f $dir/networks ]]; then sed -n "s/^$1 //p" "$dir/networks"; else echo 127.0.0.1; fi
}

on() { # NODE COMMAND...: in the node's network, if it has one
    if [[ -f $dir/networks ]]; then bash "$here/slurm_networks.sh" run "$dir" "$@"; else "${@:2}"; fi
}

more() { # NAME: prints DIRECTORY/more.NAME, if it exists
    if [[ -f $dir/more.$1 ]]; then cat -- "$dir/more.$1"; fi
}

write_settings() {
    local ports host
    # Job ids start at the first port, so that clusters on this machine have different ids: ranks rendezvous at a port
    # that is derived from the id (llama31/launch/slurm/job.sbatch).
    read -ra ports < <(free_ports $((1 + ${#nodes[@]})))
    host="$(hostname -s)"
    {
        cat <<CONF
ClusterName=llama31
SlurmctldHost=$host($(address_of this-machine))
SlurmctldPort=${ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
FirstJobId=${ports[0]}
ReturnToService=2
KillWait=2
MinJobAge=3600
CONF
        for ((i = 0; i < ${#nodes[@]}; i++)); do
            echo "NodeName=${nodes[i]} NodeHostname=$host NodeAddr=$(address_of "${nodes[i]}") Port=${ports[i + 1]}" \
                "CPUs=2 RealMemory=4000 $(more "${nodes[i]}")"
        done
        echo "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO"
        more conf
    } >"$dir/slurm.conf"
    # Newer versions need control groups from systemd by default; older ones do not know this setting.
    if [[ $(printf '%s\n' 23.11 "$(slurmd -V | cut -d' ' -f2)" | sort --version-sort | head -n 1) == 23.11 ]]; then
        echo "CgroupPlugin=disabled" >"$dir/cgroup.conf"
    fi
}

start() {
    ((EUID == 0)) || fail "needs root: slurmd starts jobs as their users"
    mkdir -p -- "$dir"
    exec 9>"$dir/lock" # one start or stop at a time
    flock 9
    if is_running; then
        [[ $(cat -- "$dir/root") == "$root" ]] || fail "a cluster of another release runs in $dir; stop it first"
        say_ready
        return
    fi
    stop_daemons # left by an interrupted start
    rm -rf -- "${dir:?}/bin" "$dir/bin.inside"
    if [[ -n $release ]]; then install_release; else install_packages; fi
    printf '%s\n' "$root" >"$dir/root"
    grep -qE '^127\.0\.0\.1 +n1 n2$' /etc/hosts || echo "127.0.0.1 n1 n2" >>/etc/hosts
    rm -rf -- "$dir/state" "$dir/cgroup.conf" # jobs of an earlier cluster, perhaps of another release
    mkdir -p -- "$dir/state" "${nodes[@]/#/$dir/spool.}"
    if [[ ! -f $dir/munge.key ]]; then (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key"); fi

    # Daemons must not inherit the lock. Without --force, munged refuses logs and sockets below /tmp.
    in_root munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --seed-file="$dir/munge.seed" --log-file="$dir/munged.log" 2>>"$dir/munged.log" 9>&-
    if [[ $networks == yes ]]; then bash "$here/slurm_networks.sh" make "$dir" "${nodes[@]}" >"$dir/networks"; fi
    write_settings
    slurmctld -f "$dir/slurm.conf" 9>&-
    local node
    for node in "${nodes[@]}"; do on "$node" slurmd -f "$dir/slurm.conf" -N "$node" 9>&-; done
    wait_for "nodes ${nodes[*]}" is_running
    say_ready
}

say_ready() {
    say "ready; export SLURM_CONF=${SLURM_CONF@Q}${release:+" PATH=${dir@Q}/bin:\"\$PATH\""}"
}

# --- stop -----------------------------------------------------------------------------------------------------------

no_jobs_left() { [[ -z $(squeue --noheader) ]]; }

gone() { ! pid_of "$1"; }

stop_daemons() {
    local name pid
    for name in "${nodes[@]/#/slurmd.}" slurmctld munged; do
        if pid="$(pid_of "$name")"; then
            kill "$pid"
            wait_for "end of $name" gone "$name"
        fi
    done
    if [[ -f $dir/networks ]]; then
        bash "$here/slurm_networks.sh" remove "$dir"
        rm -- "$dir/networks"
    fi
}

stop() {
    [[ -d $dir ]] || return 0
    exec 9>"$dir/lock"
    flock 9
    if is_running; then
        squeue --noheader --format=%A | xargs --no-run-if-empty scancel
        wait_for "end of the jobs" no_jobs_left
    fi
    stop_daemons
    wait_for "end of the jobs' processes" nothing_is_mounted
    say "stopped"
}

main() {
    local arguments=()
    release="" networks=no
    while (($#)); do
        case "$1" in
            --release)
                (($# > 1)) || fail "--release needs a Debian release, such as trixie"
                release="$2"
                shift
                ;;
            --release=*) release="${1#*=}" ;;
            --networks) networks=yes ;;
            *) arguments+=("$1") ;;
        esac
        shift
    done
    dir="$(realpath -m -- "${arguments[1]:-/tmp/llama31-slurm}")"
    root=""
    if [[ $release == *:* ]]; then root="$(realpath -m -- "${release#*:}")"; elif [[ -n $release ]]; then root="$dir/$release"; fi
    release="${release%%:*}"
    export SLURM_CONF="$dir/slurm.conf" PATH="$dir/bin:$PATH"
    case "${arguments[0]:-}" in
        start) start ;;
        stop) stop ;;
        status)
            if is_running; then sinfo; else
                say "not running"
                exit 1
            fi
            ;;
        *) fail "unknown command: ${1:-none}; expected: start, status, stop" ;;
    esac
}

main "$@"
