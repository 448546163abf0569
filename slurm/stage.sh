#!/bin/bash
# The only job script: runs a stage or one shard of it (work), writes the stage's manifest (finish), checks nodes (check).
# `nemo-srlm submit` submits it with all flags:   sbatch [flags] slurm/stage.sh JOB_DIR work|finish|check [FIRST_SHARD]
#
# At the time limit it saves, requeues the job and resumes. After a preemption Slurm requeues the job. A crash or a hang
# is retried, first here, then on other nodes. An older attempt that is still alive is stopped. JOB_DIR/attempts-<shard>.tsv
# lists every attempt, where it ran and how it ended.
set -u
job_dir=${1:?JOB_DIR} role=${2:?work, finish or check} offset=${3:-0}
stopping=   # before anything that waits: a signal that finds no trap ends the job
trap 'stopping=USR1' USR1
trap 'stopping=TERM' TERM
# by JOB_DIR: this script is a copy in slurmd's spool directory, away from the checkout
# shellcheck source=/dev/null
source "$job_dir/job.env" || exit 1

# An array task is addressed as ARRAY_TASK: the SLURM_JOB_ID of an array's last task is the id of the whole array.
self=$SLURM_JOB_ID shard=0
if [ "$ARRAY" = 1 ]; then self=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} shard=$((offset + SLURM_ARRAY_TASK_ID)); fi
owner=$self.${SLURM_RESTART_COUNT:-0}
attempts=$job_dir/attempts-$shard.tsv
owner_file=$job_dir/owner-$shard
attempt=$owner
stop_file=$job_dir/stop-$shard.$owner
# A SIGTERM of Slurm hits every process of this script: these functions start none.
say() { printf '%(%FT%T)T [%s on %s] %s\n' -1 "$attempt" "$SLURMD_NODENAME" "$*"; }
record() { # one line, whatever Slurm or the site's words look like
    local words=${2:-}
    printf '%(%s)T\t%s\t%s\t%s\t%s\n' -1 "$attempt" "$SLURM_JOB_NODELIST" "$1" "${words//[$'\t\n']/ }" >>"$attempts"
}
owned() { # a file system that stutters is no later attempt
    local found=
    read -r found 2>/dev/null <"$owner_file"
    [ "${found:-$owner}" = "$owner" ]
}
leave() { rm -f "$stop_file"; record "$1" "${2:-}"; say "$1: ${2:-}"; exit "$3"; }
on_signal() { say "got $1: asking the workers to save and stop"; stopping=$1; : >"$stop_file"; }
heed_signals() {
    trap 'on_signal USR1' USR1   # the time limit is near
    trap 'on_signal TERM' TERM   # preemption, cancellation or requeue
}
rm -f "$stop_file"
heed_signals
if [ -n "$stopping" ]; then on_signal "$stopping"; fi

# Fencing: the newest attempt owns the shard. The step of an older attempt whose node Slurm has lost may still run and write. It
# reads the owner twice a second, ends its worker when another attempt owns the shard, and then removes its lease
# (nemo_srlm/launch/slurm/lease.py). A lease that is not renewed for $LEASE seconds is that of a node that is dead.
own() { local n; for n in 1 2 3; do printf '%s\n' "$owner" >"$owner_file.new" && mv "$owner_file.new" "$owner_file" && return; done; }
own || leave failed "$owner_file cannot be written: is the disk full?" 1
await_older() { # until nothing of an older attempt of this shard is left to write
    local seen=none found left=0
    while compgen -G "$job_dir/lease-$shard-*" >/dev/null; do
        found=$(tail -n 1 "$job_dir/lease-$shard-"* 2>/dev/null)   # contents: a shared file system caches times
        if [ "$found" != "$seen" ]; then
            if [ "$seen" = none ]; then say 'waits for an older attempt that still has its lease'; fi
            seen=$found left=$((2 * LEASE))
        fi
        if [ "$((left--))" -le 0 ]; then say 'the older attempt is dead: its lease has run out'; break; fi
        sleep 0.5
    done
    owned || { say 'fenced: a later attempt has taken over'; exit 5; }
    rm -f "$job_dir/lease-$shard-"*
}
await_older

export NEMO_SRLM_SHARD=$shard NEMO_SRLM_OWNER_FILE=$owner_file NEMO_SRLM_STOP_FILE=$stop_file
NEMO_SRLM_HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export NEMO_SRLM_HEAD
# srun does not use SLURM_CPUS_PER_TASK. Where it is not set, the step has all CPUs of the job: no 1 in its place, and no
# number that the environment of the submission has.
unset SRUN_CPUS_PER_TASK
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
unset SLURM_CLUSTERS   # of the submission: here scontrol and srun ask the cluster that runs this job
cd "$ROOT" || leave failed "$ROOT, the code of this submission, is not there" 1

step() { # runs the step on every node of the job; ${flags[@]}: srun's flags, $@: the step's; exit code in $rc
    # --overlap: after a restart the controller may count the resources of an ended step as used for some minutes
    srun --overlap --kill-on-bad-exit=1 --wait=120 --export=ALL "${CONTAINER[@]}" "${flags[@]}" \
        "${PYTHON[@]}" -m nemo_srlm.launch.slurm.step "$job_dir" "$@" &
    local pid=$! r
    rc=0
    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; rc=$?; done   # a trapped signal interrupts `wait`
    wait "$pid" 2>/dev/null; r=$?
    if [ "$r" != 127 ]; then rc=$r; fi
}
outcome() { # the outcome of this attempt and its detail; if nodes differ, the first in this order
    local word
    for word in fenced user hung crashed signalled stopped again done; do
        awk -F '\t' -v a="$attempt" -v w="$word" '$1 == a "" && $2 == w { print $2 "\t" $3; exit }' "$job_dir/outcome-$shard"-* 2>/dev/null
    done | head -n 1
}
out_of_memory() { # whether the accounting database, where there is one, says so of the newest step
    sacct -n -P -o State -j "$self" 2>/dev/null | tail -n 1 | grep -q '^OUT_OF_ME'
}
attempt_step() { # runs the step; its outcome in $word and $detail
    while :; do
        rm -f "$job_dir/outcome-$shard"-*
        step "$@"
        IFS=$'\t' read -r word detail < <(outcome) || true
        if [ -n "$word" ] && { [ "$word" != done ] || [ "$rc" = 0 ]; }; then return; fi
        if [ "$rc" = 2 ]; then   # nemo_srlm/__init__.py: the interpreter cannot run the package
            word=user detail="${PYTHON[*]} cannot run nemo_srlm on this node; the log says what it needs"
            return
        fi
        word=crashed detail="srun ended with $rc and a node reported no outcome"
        if out_of_memory; then detail="out of memory: Slurm says so of the step; ask for more with cluster.$KIND.memory"; fi
        if [ -n "$stopping" ]; then return; fi
        still_here
        case $? in
            0) return ;;
            1) say 'Slurm has marked this node as dead and the job has moved on'; exit 5 ;;
            2) if [ -n "$stopping" ]; then return; fi ;;   # the signal has hit the question, too
        esac
        record again "the controller does not respond: the step waits for it"
        until scontrol -o show job "$self" >/dev/null 2>&1; do sleep 5; done
    done
}
ask_requeue() { # $1: the nodes to leave out from now on, or nothing. Returns only if the job is not requeued; why in $refused
    local n
    trap '' TERM USR1   # the requeue's own SIGTERM comes before scontrol has its answer: killed, it would look refused
    for n in $(seq 60); do   # repeated: the controller may be restarting
        if refused=$(scontrol requeue "$self" 2>&1); then
            for n in 1 2 3 4 5; do   # only a queued job may be changed
                if [ -z "$1" ] || scontrol update JobId="$self" ExcNodeList="$1"; then break; fi
            done
            await_end
        fi
        if ! grep -qiE 'contact|connect|socket|timed out|zero bytes|configuration' <<<"$refused"; then
            still_here
            case $? in
                0) heed_signals; return ;;   # the site refuses
                1) await_end ;;   # an earlier request was carried out, though its answer was lost
            esac
        fi
        sleep 5
    done
    heed_signals
}
await_end() { for _ in $(seq 300); do sleep 2; done; }   # slurmd kills this script; exiting earlier would end the job
still_here() { # whether this attempt is what the controller has running: 0 yes, 1 no, 2 it does not respond
    local job
    if ! job=$(scontrol -o show job "$self" 2>&1); then
        if [[ "$job" == *'Invalid job id'* ]]; then return 1; else return 2; fi
    fi
    # Slurm shows a signal on its way (a preemption begins with SIGCONT) and a pause in place of RUNNING
    [[ "$job " == *" JobState="@(RUNNING|SIGNALING|SUSPENDED|STOPPED|RESIZING)" "*" Restarts=${SLURM_RESTART_COUNT:-0} "* ]]
}
failed_first() { # the node whose step ended first, and not well; the first of the job where none said anything
    local file
    while read -r file; do
        if grep -qE $'\t(crashed|hung)\t' "$file"; then
            scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n "$((${file##*-} + 1))p"
            return
        fi
    done < <(ls -tr "$job_dir/outcome-$shard"-* 2>/dev/null)
    echo "$NEMO_SRLM_HEAD"
}
left_out() { # cluster.exclude, and the nodes that this job has been moved away from
    { if [ -n "$EXCLUDED" ]; then scontrol show hostnames "$EXCLUDED"; fi
      awk -F '\t' -v j="$self." 'index($2, j) == 1 && $4 == "moved" { sub(/^away from /, "", $5); sub(/:.*/, "", $5)
        print $5 }' "$attempts" 2>/dev/null; } | grep . | sort -u | paste -sd,
}
leave_left_out() { # requeues the job where Slurm has started it on a node that it was moved away from: it was changed too late
    local node times
    node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -xF -m 1 -- "$(left_out | tr , '\n')") || return
    times=$(awk -F '\t' -v j="$self." 'index($2, j) == 1 && $4 == "again" && index($5, "back on ") == 1' "$attempts" | wc -l)
    if [ "$times" -ge 3 ]; then return; fi   # the site does not let jobs be changed: better here than nowhere
    record again "back on $node: requeued" || return   # what is not written down is not counted
    ask_requeue "$(left_out)"
}
others() { # whether the partition has enough nodes without node $1 and those that are left out
    local up   # sinfo calls a drained node idle, too
    up=$(sinfo -h -N -p "$SLURM_JOB_PARTITION" -t idle,alloc,mix,comp -o '%N %t' | sed -nE '/ (dr|fail)/!s/ .*//p' | sort -u |
        grep -vxF -e "$1" -e "$(left_out | tr , '\n')" | wc -l)
    [ "$up" -ge "$SLURM_JOB_NUM_NODES" ]
}
await_slurm() { # after a SIGTERM; returns if the job goes on
    # A preemption sends TERM to the steps first and to this script after the grace time. Exiting now would make the job
    # FAILED instead of requeued.
    record signalled "preempted, cancelled or requeued"
    say 'waiting for Slurm to end or requeue the job'
    for _ in $(seq 60); do sleep 2; done
    while scontrol -o show job "$self" | grep -q 'PreemptTime=[0-9]'; do sleep 2; done
    for _ in $(seq 300); do   # a site with a long KillWait is still ending it
        still_here
        if [ $? != 1 ]; then break; fi
        sleep 2
    done
}
of_setup() { # $at: the line that runs
    local unknown=
    if [ "$1" = 127 ]; then unknown=' (a job script does not know it: source what defines it in cluster.setup, and use it there)'; fi
    echo "\`$at\` of the site's modules or setup ended with exit code $1$unknown"
}

at=
trap 'code=$?; if [ -n "$at" ]; then leave failed "$(of_setup "$code")" 1; fi' EXIT   # a line that says `exit`
set +u   # module and conda read variables that are not set
prepared=0
prepare || prepared=$?
set +e +o pipefail -u   # a line that says `set -e` is about itself
if [ "$prepared" != 0 ]; then
    failed=$(of_setup "$prepared") at=
    if [ "$stopping" = TERM ]; then await_slurm; fi   # the signal has hit it, too
    leave failed "$failed" 1
fi
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}   # before what the site or the user put there

leave_left_out
try=0
while :; do
    attempt=$owner; if [ "$try" -gt 0 ]; then attempt=$owner.r$try; fi
    # a retry takes another port: the old one may be the cause, or still be bound
    export NEMO_SRLM_ATTEMPT=$attempt NEMO_SRLM_PORT=$((10000 + (SLURM_JOB_ID + (try > 0) * (1 + RANDOM % 19999)) % 20000))
    record start "$role"
    say "start on $SLURM_JOB_NODELIST"
    flags=(); if [ "$role" = work ]; then attempt_step; else attempt_step "--$role"; fi
    if [ "$word" = done ] && [ "$KIND" = train ] && [ "$role" = work ]; then
        flags=(--nodes=1 --ntasks=1); attempt_step --finish
    fi
    owned || { say 'fenced: a later attempt has taken over'; exit 5; }
    case $word in
        done) leave done "$detail" 0 ;;
        user) leave user "$detail" 2 ;;
        fenced) say "$detail"; exit 5 ;;
    esac
    if [ "$stopping" = USR1 ] || [ "$word" = again ]; then
        if [ "$stopping" = USR1 ]; then detail='saved at the time limit'; fi
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_RESTARTS" ]; then
            leave failed "not done after $MAX_RESTARTS restarts (cluster.max_restarts), the last time: $detail; raise it, or remove what stops the job, and submit again: it resumes" 1
        fi
        if [ "$stopping" = USR1 ]; then record limit "$detail: requeued"; else record again "$detail"; fi
        rm -f "$stop_file"
        say "requeue ($word)"
        ask_requeue ''
        leave limit "saved, but Slurm did not requeue the job: $refused" 1
    fi
    if [ "$stopping" = TERM ] || [ "$word" = signalled ]; then
        await_slurm
        word=crashed detail="its step got SIGTERM, but the job was not ended"
    fi
    record "$word" "$detail"
    try=$((try + 1))
    # of this job, since it was moved the last time
    read -r past moves < <(awk -F '\t' -v j="$self." 'index($2, j) == 1 { if ($4 == "moved") { m++; n = 0 }
        if ($4 == "crashed" || $4 == "hung") n++ } END { print n + 0, m + 0 }' "$attempts")
    if [ "${past:-0}" -lt "$try" ]; then past=$try; fi   # on a full disk nothing is written down
    if [ "$past" -gt "$RETRIES" ]; then
        node=$(failed_first)
        if [ "${moves:-0}" -lt "$OTHER_NODES" ] && others "$node" && record moved "away from $node: $word: $detail"; then
            say "$word: $detail; on other nodes than $node"
            rm -f "$stop_file"
            ask_requeue "$(left_out)"
        fi
        leave failed "$word: $detail" 1
    fi
    rm -f "$stop_file"; stopping=${stopping#TERM}
    if [ -n "$stopping" ]; then : >"$stop_file"; fi   # the time limit has come near meanwhile
    say "$word: $detail; trying again ($past of $RETRIES)"
done
