#!/usr/bin/env bash
# Shell functions that unset variables which Slurm's commands read as options, such as SQUEUE_STATES or SRUN_OUTPUT;
# they would override the options in a job's script. Used by remote_shell.py, job.sbatch and utils/*.sh. Needs bash.

unset_slurm_options() { # PATTERN...: unsets all of them except matches; keeps what is needed to reach the cluster
    local name pattern
    for name in ${!SACCT_@} ${!SALLOC_@} ${!SBATCH_@} ${!SCANCEL_@} ${!SCONTROL_@} ${!SINFO_@} ${!SLURM_@} \
        ${!SQUEUE_@} ${!SRUN_@} ${!SLURMD_DEBUG@}; do
        for pattern in SLURM_CONF SLURM_CONF_SERVER SLURM_CLUSTERS SLURM_JWT 'SLURM_SACK_*' "$@"; do
            # shellcheck disable=SC2254 # a pattern
            case $name in $pattern) continue 2 ;; esac
        done
        unset -v "$name"
    done
}

unset_slurm_options_in_job() { # keeps Slurm's own variables of the job, which srun and the script need
    unset_slurm_options 'SLURM_JOB*' 'SLURM_STEP*' 'SLURM_ARRAY_*' 'SLURM_SUBMIT_*' 'SLURM_CPUS_*' 'SLURM_GPUS*' \
        'SLURM_MEM_PER_*' 'SLURM_NODE*' 'SLURM_NTASKS*' SLURM_CLUSTER_NAME SLURM_GTIDS SLURM_HINT SLURM_LOCALID \
        SLURM_NNODES SLURM_NPROCS SLURM_OVERCOMMIT SLURM_PROCID SLURM_RESTART_COUNT SLURM_TASKS_PER_NODE \
        SLURM_THREADS_PER_CORE SLURM_TRES_PER_TASK SLURM_WORKING_CLUSTER
}
