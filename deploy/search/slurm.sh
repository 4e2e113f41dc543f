#!/bin/bash
# Search, fit and export as one Slurm job: a chief, which proposes, and workers, which train.
#
#   SHARDS=/scratch/shards OUT=/scratch/stroke sbatch --ntasks=5 deploy/search/slurm.sh --preset paper --epochs 60 --trials 40
#
# What stands behind the file's name goes to strokeseg-tf tune. Submitted again, or requeued, the
# job goes on where it was. With GPUs add --gpus-per-task=1.
#SBATCH --job-name=strokeseg-search
#SBATCH --ntasks=5
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
: "${SHARDS:?names the shards folder}" "${OUT:?names the folder to write into, shared by all nodes}"

export SEARCH="$OUT/search" WORKERS=$((SLURM_NTASKS - 1))
# This script runs on the first node, as task 0 does: the chief.
KERASTUNER_ORACLE_IP=$(hostname)
export KERASTUNER_ORACLE_IP KERASTUNER_ORACLE_PORT=$((20000 + SLURM_JOB_ID % 10000))

# A task that dies is started again under its id: a trial that kills its process is given up at the
# fourth start. Bad settings (status 2) are not tried again, and a task that is lost ends the others,
# which would wait for it.
srun --kill-on-bad-exit=1 bash -c '
  if [ "$SLURM_PROCID" = 0 ]; then
    export KERASTUNER_TUNER_ID=chief KERASTUNER_ORACLE_IP=0.0.0.0
  else
    export KERASTUNER_TUNER_ID=worker$((SLURM_PROCID - 1))
  fi
  for attempt in {1..10}; do
    status=0
    strokeseg-tf tune "$SHARDS" --run "$SEARCH" "$@" --workers "$WORKERS" --resume || status=$?
    case $status in 0 | 2) break ;; esac
  done
  exit $status
' search "$@"

# Nothing is left to search: this trains the winner, for the epochs of the preset.
unset KERASTUNER_ORACLE_IP KERASTUNER_ORACLE_PORT
strokeseg-tf tune "$SHARDS" --run "$SEARCH" "$@" --resume --fit-best "$OUT/best"
strokeseg-tf export "$OUT/best" "$OUT/served/strokeseg"
