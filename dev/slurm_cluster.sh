#!/usr/bin/env bash
# A real Slurm cluster on this machine, of two virtual nodes n1 and n2, to try jobs on.
#
#     bash dev/slurm_cluster.sh start [DIRECTORY]     starts it, or finds it running; installs Debian's packages first
#     export SLURM_CONF=DIRECTORY/slurm.conf          then sbatch, srun, squeue, sinfo work
#     bash dev/slurm_cluster.sh status [DIRECTORY]    exit code 0: both nodes are ready for jobs
#     bash dev/slurm_cluster.sh stop [DIRECTORY]      ends its jobs and daemons
#     scancel --batch --signal=USR1 JOB               warns a job, as Slurm does before its time limit
#
#     bash dev/slurm_cluster.sh start --release RELEASE[:ROOT] [DIRECTORY]
#     export PATH="DIRECTORY/bin:$PATH"               the same with the Slurm of another Debian release, such as trixie:
#                                                     it is installed in ROOT (default: DIRECTORY/RELEASE), a minute;
#     LLAMA31_SLURM_RELEASE=RELEASE[:ROOT]            has the tests run on it
#
# DIRECTORY (default: /tmp/llama31-slurm) holds all that the cluster has: settings, munge's key and socket, state, logs.
# Several clusters can run side by side, in a directory each. Needs root, for slurmd starts jobs as their users. The one
# trace outside of DIRECTORY, packages aside, is a line of /etc/hosts that gives n1 and n2 this machine's address.
# It takes further settings from DIRECTORY/more.conf, and of a node, such as Gres=gpu:4, from DIRECTORY/more.n1, if there.
# Exit code 2: it cannot be done here; one line says why. Start: 3 s, and 15 s to install the packages.
#
# Of another release all daemons and jobs run in ROOT, with all files of this machine outside of its system's directories
# (dev/debian_chroot.sh). What is mounted for that is seen by them alone and is gone with the last of them.
set -euo pipefail

here="$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")"
nodes=(n1 n2)
patience=60 # seconds to wait for daemons to come up or to end

say() { printf 'slurm_cluster: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 2
}

# --- The parts of the cluster -------------------------------------------------------------------------------------

pid_of() { # NAME: prints the id of the daemon that we started under this name, if it lives
    local pid
    pid="$(cat -- "$dir/$1.pid" 2>/dev/null)" || return 1
    # The id may belong to another program by now; ours have this directory in their command line.
    [[ -n $pid ]] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$dir/" && printf '%s\n' "$pid"
}

wait_for() { # WHAT COMMAND...: until the command succeeds
    local what="$1" deadline=$((SECONDS + patience))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then fail "$what: not within $patience s; see the logs in $dir"; fi
        sleep 0.1
    done
}

nodes_are_ready() {
    [[ $(sinfo --noheader --Node --partition=debug --format=%T | grep -cE '^(idle|mixed|allocated)$') == "${#nodes[@]}" ]]
}

in_root() { # COMMAND...: the first one of a cluster; the programs in DIRECTORY/bin follow it
    if [[ -n $release ]]; then bash "$here/debian_chroot.sh" run "$root" "$dir/bin.inside" "$dir/bin" "$@"; else "$@"; fi
}

nothing_is_mounted() { # the processes in ROOT, and they alone, see something mounted at DIRECTORY/bin
    ! grep -qsF -- " $dir/bin " /proc/[0-9]*/mountinfo
}

is_running() {
    local name
    for name in munged slurmctld "${nodes[@]/#/slurmd.}"; do pid_of "$name" >/dev/null || return 1; done
    nodes_are_ready
}

# --- start ----------------------------------------------------------------------------------------------------------

install_release() { # and programs in DIRECTORY/bin that are those of the release, run where the cluster runs
    command -v debootstrap >/dev/null || apt_get debootstrap
    bash "$here/debian_chroot.sh" make "$release" "$root" slurm-wlm munge python3
    mkdir -- "$dir/bin" "$dir/bin.inside"
    cat >"$dir/bin/.enter" <<'ENTER'
#!/usr/bin/env bash
# A program of Slurm, run where the cluster of SLURM_CONF runs; links give it its names.
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
        ln -s "$program" "$dir/bin.inside/$name" # what the directory shows to those who are there already
    done
}

apt_get() { # PACKAGE...
    command -v apt-get >/dev/null || fail "${1} is not installed, and this is no Debian to install it on"
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

free_ports() { # COUNT: prints so many ports that nobody listens on
    python3 -c 'import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))' "$1"
}

more() { # NAME: prints what was left in DIRECTORY/more.NAME
    if [[ -f $dir/more.$1 ]]; then cat -- "$dir/more.$1"; fi
}

write_settings() {
    local ports host
    # Job ids begin with the first of them: so clusters side by side have different ones, and their jobs' ranks, which
    # meet at a port that is made from the id (llama31/launch/slurm/job.sbatch), do not meet those of another cluster.
    read -ra ports < <(free_ports $((1 + ${#nodes[@]})))
    host="$(hostname -s)"
    {
        cat <<CONF
ClusterName=llama31
SlurmctldHost=$host(127.0.0.1)
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
            echo "NodeName=${nodes[i]} NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[i + 1]} CPUs=2 RealMemory=4000" \
                "$(more "${nodes[i]}")"
        done
        echo "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO"
        more conf
    } >"$dir/slurm.conf"
    # By default newer ones need control groups that systemd made; older ones need none, and refuse this setting.
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
    stop_daemons # what an interrupted start left
    rm -rf -- "${dir:?}/bin" "$dir/bin.inside"
    if [[ -n $release ]]; then install_release; else install_packages; fi
    printf '%s\n' "$root" >"$dir/root"
    grep -qE '^127\.0\.0\.1 +n1 n2$' /etc/hosts || echo "127.0.0.1 n1 n2" >>/etc/hosts
    rm -rf -- "$dir/state" "$dir/cgroup.conf" # jobs of an earlier life, and perhaps of another release
    mkdir -p -- "$dir/state" "${nodes[@]/#/$dir/spool.}"
    if [[ ! -f $dir/munge.key ]]; then (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key"); fi

    # Daemons must not inherit the lock. munged finds fault with logs and sockets below /tmp unless it is forced.
    in_root munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --seed-file="$dir/munge.seed" --log-file="$dir/munged.log" 2>>"$dir/munged.log" 9>&-
    write_settings
    slurmctld -f "$dir/slurm.conf" 9>&-
    local node
    for node in "${nodes[@]}"; do slurmd -f "$dir/slurm.conf" -N "$node" 9>&-; done
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
    wait_for "end of what the jobs left running" nothing_is_mounted
    say "stopped"
}

main() {
    local arguments=()
    release=""
    while (($#)); do
        case "$1" in
            --release)
                (($# > 1)) || fail "--release: needs a release of Debian, such as trixie"
                release="$2"
                shift
                ;;
            --release=*) release="${1#*=}" ;;
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
        *) fail "unknown command: ${1:-none}; what works: start, status, stop" ;;
    esac
}

main "$@"
