#!/usr/bin/env bash
# Records what Slurm's commands print of jobs of each kind, for tests/launch/test_job_states.py:
#
#     export SLURM_CONF=... PATH=...; bash tests/slurm_outputs/record.sh tests/slurm_outputs/VERSION
#
# The cluster is one of dev/slurm_cluster.sh without other jobs, with accounting where sacct is to say something, and with
# JobAcctGatherType=jobacct_gather/linux, JobAcctGatherFrequency=task=1 and JobAcctGatherParams=OverMemoryKill.
# Each file begins with a command's exit code; what follows is its standard output or, if it failed, standard error.
set -euo pipefail

out="$1"
mkdir -p "$out"
fields="JobID:|,State:|,NodeList:|,StartTime:|,EndTime:|,RestartCnt:|,exit_code:|,Reason:|"
ends='JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|OUT_OF_MEMORY|NODE_FAIL)'
declare -A job

submit() { sbatch --parsable --output=/dev/null "$@"; }

until_shown() { # JOB REGEX
    until scontrol show job "$1" | grep -qE "$2"; do :; done
}

ask() { # NAME COMMAND...
    local name="$1" code=0 said
    shift
    said="$("$@" 2>&1)" || code=$?
    printf '%s\n' "$code" ${said:+"$said"} >"$out/$name"
}

job[succeeds]="$(submit --wrap=true)"
job[bad_input]="$(submit --wrap='exit 2')"
job[target_not_reached]="$(submit --wrap='exit 3')"
job[interrupted]="$(submit --wrap='exit 130')"
# shellcheck disable=SC2016 # the job's own id
job[killed]="$(submit --wrap='kill -9 $$')"
for name in "${!job[@]}"; do until_shown "${job[$name]}" "$ends"; done
job[cancelled]="$(submit --hold --wrap=true)"
scancel "${job[cancelled]}"
until_shown "${job[cancelled]}" "$ends"
job[runs]="$(submit --nodes=2 --time=30 --wrap='sleep 600')"
until_shown "${job[runs]}" JobState=RUNNING
job[waits]="$(submit --dependency="afterany:${job[runs]}" --wrap=true)"
until_shown "${job[waits]}" Reason=Dependency
sleep 3 # until accounting knows them
for name in "${!job[@]}"; do echo "${job[$name]} $name"; done | sort -n >"$out/jobs"
all="$(cut -d' ' -f1 "$out/jobs" | paste -sd,)"
squeue=(squeue --noheader --states=all --Format="$fields")
ask squeue "${squeue[@]}" --jobs="$all"
ask squeue_unknown "${squeue[@]}" --jobs=999999
ask squeue_two_unknown "${squeue[@]}" --jobs=999998,999999
ask squeue_known_and_unknown "${squeue[@]}" --jobs="${job[succeeds]},999999"
ask sacct sacct --noheader --parsable2 --allocations --jobs="$all" --format=JobIDRaw,State,NodeList,Start,End,ExitCode
scancel "${job[runs]}" "${job[waits]}"

eats="if ((SLURM_PROCID)); then exec python3 -c 'x = bytearray(300 << 20); import time; time.sleep(60)'; fi; sleep 60"
sbatch --parsable --wait --output="$out/out_of_memory" --nodes=2 --mem=100 \
    --wrap="srun --ntasks=2 --kill-on-bad-exit=1 bash -c \"$eats\"" || true
