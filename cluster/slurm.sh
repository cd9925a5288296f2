#!/usr/bin/env bash
# A Ray cluster for one study, inside a Slurm job: sbatch cluster/slurm.sh STUDY [OPTIONS of kdtune launch]
# kdtune must be on the PATH of every node (an environment on the shared file system). CHANGE the lines below and
# KDTUNE_STORAGE, KDTUNE_DATA_ROOT; the rest works as it is.
#SBATCH --job-name=kdtune
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=2-00:00:00
# Whole nodes: two Rays on one node get into each other's ports and see each other's GPUs.
#SBATCH --exclusive
# Preempted or its node lost, the job starts again, and the study continues.
#SBATCH --requeue
#SBATCH --open-mode=append
# To this script, two minutes before the time is up.
#SBATCH --signal=B:TERM@120
set -euo pipefail
umask 077

if (( $# == 0 )); then
  echo "usage: sbatch cluster/slurm.sh STUDY [OPTIONS of kdtune launch]" >&2
  exit 2
fi
export KDTUNE_STORAGE="${KDTUNE_STORAGE:-$HOME/kdtune}"        # CHANGE: a bucket, or a folder that all nodes share
export KDTUNE_DATA_ROOT="${KDTUNE_DATA_ROOT:-$HOME/data}"      # CHANGE

# One token for all nodes, new with every start, in a file of mode 600 that all nodes see. Ray passes on its path, never
# the token, and only because of RAY_AUTH_MODE.
shared="$HOME/.cache/kdtune/slurm/$SLURM_JOB_ID"
mkdir -p "$shared"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$shared/auth_token" RAY_USAGE_STATS_ENABLED=0
python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

# Ray's files, on each node's own disk: short, since sockets have short names; not to be guessed, and mkdir refuses a
# folder that is there, so that nobody else on the node can have laid it out.
temp="/tmp/kdt-$SLURM_JOB_ID-$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')"
mkdir "$temp"

ray_processes=()
# shellcheck disable=SC2329 # called by the trap
leave() {  # by their numbers: `ray stop` would end every Ray of this user on the node
  kill "${ray_processes[@]}" 2> /dev/null || true
  wait
  rm -rf "$shared" "$temp"
}
trap leave EXIT
trap 'exit 143' TERM   # until there is a launch to end

# This script runs on the job's first node: the head. Port 0: Ray finds a free one and writes down which.
ray start --head --port=0 --dashboard-host=127.0.0.1 --dashboard-agent-listen-port=0 --temp-dir="$temp" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --block &
ray_processes+=("$!")
for (( second = 0; second < 120; second++ )); do
  [[ -s "$temp/ray_current_cluster" ]] && break
  kill -0 "${ray_processes[0]}" 2> /dev/null || { echo "slurm.sh: Ray's head did not start, see above" >&2; exit 1; }
  sleep 1
done
address="$(< "$temp/ray_current_cluster")"

# The others, one Ray each; srun passes this script's environment on. By itself it would give a step one processor.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
if (( SLURM_JOB_NUM_NODES > 1 )); then
  # shellcheck disable=SC2016 # it is the shell on the other node that expands
  srun --nodes="$(( SLURM_JOB_NUM_NODES - 1 ))" --ntasks="$(( SLURM_JOB_NUM_NODES - 1 ))" --exclude="${nodes[0]}" \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
      umask 077
      mkdir "$2-$SLURM_PROCID"
      trap "rm -rf \"$2-$SLURM_PROCID\"" EXIT
      trap "kill \$!" TERM
      ray start --address="$1" --dashboard-agent-listen-port=0 --temp-dir="$2-$SLURM_PROCID" --num-cpus="$3" --block &
      until wait "$!"; do kill -0 "$!" 2> /dev/null || break; done
    ' worker "$address" "$temp" "$SLURM_CPUS_PER_TASK" &
  ray_processes+=("$!")
fi

# A stage divides among its trials what is there when it starts, so all nodes must be.
python3 - "$address" "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
for _ in range(300):
    if sum(node["Alive"] for node in ray.nodes()) >= int(sys.argv[2]):
        sys.exit()
    time.sleep(1)
sys.exit(f"after 300 s only {sum(node['Alive'] for node in ray.nodes())} of {sys.argv[2]} nodes have joined")
PYTHON

# TERM goes on to kdtune, which saves its state and ends in order. If the time is up, the job then queues again; if it is
# cancelled it does not, and a preempted one Slurm itself queues again.
again=no
# shellcheck disable=SC2329 # called by the trap
end_in_order() {
  kill -TERM "$launch"
  if (( $(date +%s) + 300 > ${SLURM_JOB_END_TIME:-9999999999} )); then again=yes; fi
}
kdtune launch "$@" --address "$address" &
launch="$!"
trap end_in_order TERM
while true; do  # a trap ends `wait` early
  status=0
  wait "$launch" || status="$?"
  kill -0 "$launch" 2> /dev/null || break
done
if [[ "$again" == yes ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
