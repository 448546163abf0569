#!/usr/bin/env bash
# Starts a temporary real Slurm on this machine: munged, slurmctld and several slurmd ("nodes") with configured but not
# real CPUs and GPUs, all in one private directory. No systemd, containers or cgroups; runs as root or an ordinary user.
#
#   tools/dev_cluster.sh start DIR             then: export SLURM_CONF=DIR/etc/slurm.conf; sbatch slurm/iteration.sh ...
#   tools/dev_cluster.sh status|stop DIR
#   tools/dev_cluster.sh kill-node|start-node DIR NODE      kill slurmd and all processes of the node; start it again
#   tools/dev_cluster.sh lose-node DIR NODE                 kill only slurmd: its jobs' processes keep running
#   tools/dev_cluster.sh kill-controller|start-controller DIR
#
# Settings of `start`: DEV_NODES=2 DEV_CPUS=64 DEV_GPUS=8 DEV_NODE_TIMEOUT=10 (a dead node is DOWN after ~2.5x this)
#                      DEV_REQUEUE_DELAY=5 (seconds before a requeued job may start again; Slurm's default: 120)
#                      DEV_CONF='LINE ...': further lines of slurm.conf, the last of a name wins
# DIR: at most 60 characters (socket paths). Nodes are named 127.0.0.11, 127.0.0.12, ..., so that names resolve.
# Debian: apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client
set -euo pipefail

die() { printf 'dev_cluster: %s\n' "$*" >&2; exit 1; }
[ $# -ge 2 ] || { sed -n '2,/^set /{/^#/p}' "$0" >&2; exit 2; }
verb=$1 dir=$(realpath -m "$2") node=${3:-}
conf=$dir/etc/slurm.conf
export SLURM_CONF=$conf PATH=$PATH:/usr/sbin:/sbin
[ -z "${SLURM_JOB_ID:-}" ] || die "not from inside a Slurm job"

# --- processes: by recorded pid, and only if they belong to this directory ------------------------------------------
alive() { # a zombie counts as dead: in a container it may never be reaped
    local stat; stat=$(sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null) || return 1
    [ -n "$stat" ] && [ "${stat%% *}" != Z ]
}
pid_of() {
    local pid; pid=$(tr -dc 0-9 2>/dev/null <"$dir/run/$1.pid") || return 1
    [ -n "$pid" ] && alive "$pid" && grep -zqF "$dir/" "/proc/$pid/cmdline" && printf '%s\n' "$pid"
}
end() { # TERM, up to 10 s, KILL
    local pid n; pid=$(pid_of "$1") || return 0
    kill -TERM "$pid" 2>/dev/null || true
    for n in $(seq 100); do alive "$pid" || break; sleep 0.1; done
    if alive "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
    rm -f "$dir/run/$1.pid"
}
job_pids() { # the slurmstepds of this cluster, then the processes of its jobs; $1: of this node only. Few forks, for speed
    local f p
    for f in $(cd /proc && grep -lx slurmstepd [0-9]*/comm 2>/dev/null); do
        p=${f%%/*}
        # by its output: find also fails when one of the files that the process has open is closed meanwhile
        if [ -n "$(find "/proc/$p/fd" -lname "$dir/log/slurmd-${1:-*}.log" -print -quit 2>/dev/null)" ]; then echo "$p"; fi
    done
    for f in $(cd /proc && grep -lzxF "SLURM_CONF=$conf" [0-9]*/environ 2>/dev/null); do
        p=${f%%/*}
        if [ "$p" = $$ ] || [ "$p" = "$BASHPID" ]; then continue; fi
        if grep -zq '^SLURM_JOB_ID=' "/proc/$f" 2>/dev/null \
           && { [ -z "${1:-}" ] || grep -zqxF "SLURMD_NODENAME=$1" "/proc/$f" 2>/dev/null; }; then echo "$p"; fi
    done
}
kill_node() { # everything stops before anything dies: a slurmstepd that sees its job die reports the job as FAILED
    local left seen
    while left=$(pid_of "slurmd-$1" || true; job_pids "$1") && [ -n "$left" ]; do
        seen=
        while [ "$left" != "$seen" ]; do   # until a look finds nothing new
            kill -STOP $left 2>/dev/null || true
            seen=$left left=$(pid_of "slurmd-$1" || true; job_pids "$1")
        done
        kill -KILL $left 2>/dev/null || true
    done
    rm -f "$dir/run/slurmd-$1.pid"
}
nodes() { cat "$dir/etc/nodes" 2>/dev/null || true; }
daemons() { echo munged; echo slurmctld; nodes | sed 's/^/slurmd-/'; }
await() { # repeats a command until it succeeds, for at most $1 seconds
    local n=$(($1 * 10)); shift
    until "$@" >/dev/null 2>&1; do n=$((n - 1)); [ "$n" -gt 0 ] || return 1; sleep 0.1; done
}

# --- configuration --------------------------------------------------------------------------------------------------
listening() { cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v h="$(printf ':%04X' "$1")" '$4 == "0A" && substr($2, length($2) - 4) == h { f = 1 } END { exit !f }'; }
free_ports() { # the first of $1 consecutive free ports, below the ephemeral range
    local base try i; base=$((20000 + $(printf '%s' "$dir" | cksum | cut -d' ' -f1) % 9000))
    for try in $(seq 50); do
        for i in $(seq 0 "$1"); do if listening $((base + i)); then base=$((20000 + (base - 20000 + 7 * try + $1) % 9000)); continue 2; fi; done
        echo "$base"; return
    done
    die 'no free ports'
}
write_conf() {
    local num=${DEV_NODES:-2} gpus=${DEV_GPUS:-8} host user port i
    host=$(uname -n); host=${host%%.*}; user=$(id -un); port=$(free_ports "$num")
    mkdir -p "$dir"/{etc,state,log,run,spool,dev}; chmod 755 "$dir"/{etc,log,run,spool}; chmod 700 "$dir/state"
    seq -f '127.0.0.%g' 11 $((10 + num)) >"$dir/etc/nodes"
    [ -s "$dir/etc/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$dir/etc/munge.key")
    {
        cat <<CONF
ClusterName=dev
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# cred_expire is also the delay before a requeued job may start
AuthInfo=socket=$dir/run/munge.socket,cred_expire=${DEV_REQUEUE_DELAY:-5}
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
ReturnToService=2
JobRequeue=1
SlurmdTimeout=${DEV_NODE_TIMEOUT:-10}
KillWait=5
MinJobAge=86400
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CONF
        if [ -n "${DEV_CONF:-}" ]; then printf '%s\n' "$DEV_CONF"; fi
        i=0
        for n in $(nodes); do
            i=$((i + 1))
            printf 'NodeName=%s NodeHostname=%s NodeAddr=%s Port=%s CPUs=%s RealMemory=1000000 Gres=gpu:%s State=UNKNOWN\n' \
                "$n" "$host" "$n" $((port + i)) "${DEV_CPUS:-64}" "$gpus"
        done
        printf 'PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE DefaultTime=60 State=UP\n'
        printf 'PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=3 MaxTime=INFINITE DefaultTime=60 State=UP\n'
        printf 'PartitionName=scrap Nodes=ALL PriorityTier=1 PreemptMode=CANCEL GraceTime=3 MaxTime=INFINITE DefaultTime=60 State=UP\n'
    } >"$conf"
    for i in $(seq 0 $((gpus - 1))); do
        ln -sfn /dev/null "$dir/dev/nvidia$i"   # a gres File= must be a character device
        printf 'NodeName=127.0.0.[11-%s] Name=gpu File=%s/dev/nvidia%s\n' $((10 + num)) "$dir" "$i"
    done >"$dir/etc/gres.conf"
    # slurmd requires a cgroup mount although nothing here uses cgroups; CgroupPlugin=disabled exists since 24.05
    i=$(slurmctld -V | sed 's/.* \([0-9]*\)\.\([0-9]*\).*/\1\2/')
    printf 'CgroupPlugin=%s\n' "$(if [ "$i" -ge 2405 ]; then echo disabled; else echo cgroup/v1; fi)" >"$dir/etc/cgroup.conf"
}

# --- verbs ----------------------------------------------------------------------------------------------------------
launch() { # starts a daemon that detaches itself; shows its output only if it fails
    local name=$1; shift
    "$@" </dev/null >"$dir/log/$name.out" 2>&1 || { cat "$dir/log/$name.out" >&2; die "$name did not start"; }
}
controller() { launch slurmctld slurmctld -f "$conf"; }
registered() { local s; s=$(timeout 5 sinfo -h -N -o %T) && [ -n "$s" ] && ! grep -q unknown <<<"$s"; }
start_node() { mkdir -p "$dir/spool/$1"; launch "slurmd-$1" slurmd -f "$conf" -N "$1" -d "$(command -v slurmstepd)"; }
idle() { local s; s=$(timeout 5 sinfo -h -N -p main -o %T) && [ -n "$s" ] && ! grep -qvx idle <<<"$s"; }
start() {
    local bin d n
    for bin in munged slurmctld slurmd slurmstepd sbatch; do
        command -v "$bin" >/dev/null || die "$bin is missing: apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client"
    done
    [ ${#dir} -le 60 ] || die "the path $dir is too long for sockets in it (at most 60 characters)"
    for d in $(daemons); do if pid_of "$d" >/dev/null; then die "$d of $dir is running: stop it first"; fi; done
    write_conf
    rm -f "$dir"/run/*.pid
    launch munged munged --force --socket="$dir/run/munge.socket" --key-file="$dir/etc/munge.key" --seed-file="$dir/state/munged.seed" \
        --log-file="$dir/log/munged.log" --pid-file="$dir/run/munged.pid"
    controller
    for n in $(nodes); do start_node "$n"; done
    await 30 idle || { tail -n 5 "$dir"/log/slurm*.log >&2; (stop) || true; die 'the nodes are not idle after 30 s'; }
    printf 'export SLURM_CONF=%s\n' "$conf"
}
status() {
    local d bad=0
    for d in $(daemons); do
        if pid_of "$d" >/dev/null; then printf '%-20s running\n' "$d"; else printf '%-20s not running\n' "$d"; bad=1; fi
    done
    if [ $bad = 0 ]; then timeout 10 sinfo -h -N -p main -o '%N %T cpus(A/I/O/T)=%C %G %E'; fi
    return $bad
}
stop() {
    local d left
    if pid_of slurmctld >/dev/null; then
        { timeout 10 squeue -h -o %A | sort -u | xargs -r timeout 20 scancel; } >/dev/null 2>&1 || true
        await 8 sh -c '[ -z "$(timeout 5 squeue -h)" ]' || true
    fi
    for d in $(daemons | tac); do end "$d"; done
    for d in TERM KILL; do left=$(job_pids); [ -z "$left" ] || { kill -$d $left 2>/dev/null || true; sleep 1; }; done
}
known_node() { nodes | grep -qxF -- "$node" || die "no node '$node' (have: $(nodes | tr '\n' ' '))"; }
case $verb in
    start | status | stop) "$verb" ;;
    kill-node) known_node; kill_node "$node" ;;
    lose-node) known_node; kill -KILL "$(pid_of "slurmd-$node")"; rm -f "$dir/run/slurmd-$node.pid" ;;
    start-node) known_node; ! pid_of "slurmd-$node" >/dev/null || die "slurmd-$node is running"; start_node "$node" ;;
    kill-controller) kill -KILL "$(pid_of slurmctld)"; rm -f "$dir/run/slurmctld.pid" ;;
    start-controller) ! pid_of slurmctld >/dev/null || die 'slurmctld is running'
        controller
        await 30 registered || die 'the nodes have not registered after 30 s' ;; # before that srun finds no node
    *) die "unknown verb '$verb'" ;;
esac
