#!/usr/bin/env bash
# Networks for the nodes of a cluster of dev/slurm_cluster.sh: each node in a network namespace of its own, which can be
# cut off while its processes keep running.
#
#     bash dev/slurm_networks.sh make DIRECTORY NODE...    prints the address of this machine and each node
#     bash dev/slurm_networks.sh cut DIRECTORY NODE        from then on its packets are lost, without an error
#     bash dev/slurm_networks.sh heal DIRECTORY NODE
#     bash dev/slurm_networks.sh run DIRECTORY NODE COMMAND...
#     bash dev/slurm_networks.sh remove DIRECTORY
#
# Needs root and Debian's iproute2. A bridge joins the nodes and this machine, which has the first address. In a node's
# network the names of all nodes have their addresses, and this machine's name has the node's own.
set -euo pipefail

most=254 # bridges; the number is a byte of the addresses

address() { printf '10.213.%d.%d' "$number" "$1"; } # 1: this machine's
namespace() { printf 'llama31-%d-%s' "$number" "$1"; }
port() { printf 'l31-%d-%s' "$number" "$1"; } # the node's end at the bridge; a name has at most 15 characters

make() { # NODE...
    local failure="" node other place=1
    for ((number = 1; number <= most; number++)); do
        if failure="$(ip link add "llama31-$number" type bridge 2>&1)"; then break; fi
    done
    if ((number > most)); then
        printf 'slurm_networks: no bridge: %s\n' "$failure" >&2
        exit 2
    fi
    printf '%d\n' "$number" >"$dir/network"
    printf 'this-machine %s\n' "$(address 1)"
    ip address add "$(address 1)/24" dev "llama31-$number"
    ip link set "llama31-$number" up
    for node in "$@"; do
        place=$((place + 1))
        ip netns add "$(namespace "$node")"
        ip link add "$(port "$node")" type veth peer name eth0 netns "$(namespace "$node")"
        ip link set "$(port "$node")" master "llama31-$number" up
        ip -n "$(namespace "$node")" address add "$(address "$place")/24" dev eth0
        ip -n "$(namespace "$node")" link set lo up
        ip -n "$(namespace "$node")" link set eth0 up
        {
            printf '127.0.0.1 localhost\n%s %s\n' "$(address "$place")" "$(hostname)"
            for ((other = 1; other <= $#; other++)); do printf '%s %s\n' "$(address $((other + 1)))" "${!other}"; done
        } >"$dir/hosts.$node"
        printf '%s %s\n' "$node" "$(address "$place")"
    done
}

run() { # NODE COMMAND...: not by "ip netns exec", which hides the control groups in /sys
    # shellcheck disable=SC2016 # the inner shell expands
    exec nsenter --net="/run/netns/$(namespace "$1")" \
        unshare --mount sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$dir/hosts.$1" "${@:2}"
}

remove() {
    local name
    for name in $(ip netns list | grep -oE "^llama31-$number-\S+"); do
        ip netns delete "$name" # and with it the node's link
    done
    ip link delete "llama31-$number"
    rm -- "$dir/network"
}

dir="$2"
number="$(cat -- "$dir/network" 2>/dev/null || true)"
case "$1" in
    make) make "${@:3}" ;;
    cut) ip link set "$(port "$3")" nomaster ;;
    heal) ip link set "$(port "$3")" master "llama31-$number" ;;
    run) run "${@:3}" ;;
    remove) remove ;;
    *)
        printf 'slurm_networks: unknown command: %s\n' "$1" >&2
        exit 2
        ;;
esac
