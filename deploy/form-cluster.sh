#!/bin/sh
# Makes one cluster of servers that run:
#     form-cluster.sh MASTERS HOST:PORT[@BUSPORT]…     the masters first, then their replicas in the same order
# compose.yaml, kubernetes/ and the tests run this file. It may be interrupted and may run any number of times, even
# several times at once: each step is skipped if it is done already. On an existing cluster it introduces the servers
# again, so that servers with new addresses find each other, and makes a server that came back empty the replica of the
# new master. Set REDISCLI_AUTH to the password, and CLI=redis-cli for Redis.
set -eu
masters=$1
shift
count=$#

cli() { # SERVER COMMAND…: fails if the server answers with an error
    _address=${1%@*}
    shift
    "${CLI:-valkey-cli}" -e -h "${_address%:*}" -p "${_address##*:}" "$@" 2>&1
}

until_ok() { # WHAT COMMAND…: retries for a minute
    _what=$1 _left=600
    shift
    until _answer=$("$@"); do
        _left=$((_left - 1))
        [ "$_left" -ne 595 ] || echo "waiting for $_what"
        [ "$_left" -gt 0 ] || { echo "error: no $_what within a minute${_answer:+: $_answer}" >&2; exit 1; }
        sleep 0.1
    done
}

server() { # NUMBER SERVER…: the one with this number, from 0
    shift "$(($1 + 1))"
    echo "$1"
}

meet() { # SERVER OTHER: servers are met by address, not by name
    _port=${2%@*} _port=${_port##*:}
    _bus=${2##*@}
    [ "$_bus" != "$2" ] || _bus=$((_port + 10000))
    _name=${2%@*}
    _ip=$(getent ahosts "${_name%:*}" | awk '{ print $1; exit }')
    [ -n "$_ip" ] || { echo "unknown host"; return 1; }
    cli "$1" CLUSTER MEET "$_ip" "$_port" "$_bus"
}
answers() { cli "$1" PING | grep -q PONG; }
knows_all() { [ "$(cli "$1" CLUSTER NODES | grep -vc handshake)" -ge "$count" ]; }
serves() { # as a master, or as a replica that has its master's data
    cli "$1" CLUSTER INFO | grep -q cluster_state:ok && ! cli "$1" INFO replication | grep -q master_link_status:down
}
owned() { cli "$1" CLUSTER INFO | grep -q cluster_slots_assigned:16384; }
shard() { cli "$1" CLUSTER NODES | awk '/myself/ { print $3 ~ /slave/ ? $4 : $1 }'; } # the id of its master
empty_master() { cli "$1" CLUSTER NODES | awk '/myself/ { found = $3 ~ /master/ && NF < 9 } END { exit !found }'; }
replicates() { cli "$1" CLUSTER REPLICATE "$(shard "$2")"; }

for one in "$@"; do until_ok "answer of $one" answers "$one"; done
for one in "$@"; do
    for other in "$@"; do
        [ "$one" = "$other" ] || until_ok "meeting of $one and $other" meet "$one" "$other"
    done
done
for one in "$@"; do until_ok "introduction of $one to all" knows_all "$one"; done

# Asks all servers: one that came back empty doesn't know yet who owns the slots, and must not take them from the replica
# that has the data.
formed=false
for one in "$@"; do ! owned "$one" || formed=true; done
i=0
while [ "$i" -lt "$masters" ] && ! "$formed"; do
    # The error for slots that the server has already, from an interrupted attempt, doesn't matter.
    cli "$(server "$i" "$@")" CLUSTER ADDSLOTSRANGE \
        $((16384 * i / masters)) $((16384 * (i + 1) / masters - 1)) >/dev/null || true
    i=$((i + 1))
done
for one in "$@"; do until_ok "owner of each slot (look at CLUSTER NODES of $one; a replica whose \
master is gone for good may need CLUSTER FAILOVER TAKEOVER)" owned "$one"; done

i=0
for one in "$@"; do
    partner=$((i < masters ? i + masters : i % masters))
    if [ "$partner" -lt "$count" ] && empty_master "$one"; then
        until_ok "master for $one" replicates "$one" "$(server "$partner" "$@")"
    fi
    i=$((i + 1))
done
for one in "$@"; do until_ok "cluster at $one" serves "$one"; done
echo "the cluster of $count servers is up"
