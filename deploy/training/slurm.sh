#!/bin/bash
# Training of one network on several machines as a Slurm job: each task learns its part of a batch.
#
#   SHARDS=/scratch/shards RUN=/scratch/runs/dual_v1 sbatch --nodes=2 deploy/training/slurm.sh --preset paper
#
# What stands behind the file's name goes to strokeseg-tf fit. A task that dies ends the others,
# whose step waits for it; submitted again, or requeued, the job goes on after the last epoch
# that was kept. With GPUs add --gpus-per-task=1.
#SBATCH --job-name=strokeseg-training
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
: "${SHARDS:?names the shards folder}" "${RUN:?names the run folder, shared by all nodes}"

export PORT=$((20000 + SLURM_JOB_ID % 10000))
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$PORT\"/" | paste -sd, -)
export HOSTS

srun --kill-on-bad-exit=1 bash -c '
  task="{\"type\": \"worker\", \"index\": $SLURM_PROCID}"
  export TF_CONFIG="{\"cluster\": {\"worker\": [$HOSTS]}, \"task\": $task}"
  exec strokeseg-tf fit "$SHARDS" --run "$RUN" "$@" --resume
' fit "$@"
