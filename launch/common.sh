# shellcheck shell=bash
# What the scripts share; they source this file.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/env.sh"
say() { echo "$(date -u +%FT%TZ) ${0##*/}: $*" >&2; }
if ! command -v gcloud >/dev/null; then
  say "gcloud is not on the PATH: https://cloud.google.com/sdk/docs/install"
  exit 1
fi
where=(--project="$PROJECT" --zone="$ZONE" --quiet)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

absent() { grep -qE 'NOT_FOUND|was not found' "$scratch/errors"; }

# on_workers all|0 VERB ARG...: what on_worker.sh does there.
on_workers() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker="$1" \
    --command="$(printf '%q ' bash vicreg_jax/launch/on_worker.sh "${@:2}")"
}

# The states of a run, a line each: states all|0 NAME.
states() {
  on_workers "$1" status "$2" | grep -o 'state=[^ ]*' | sort -u
}

# describe tpu-vm|queued-resources FIELD: its state, or "none". A question that
# failed is "unknown": taken for an absent TPU, it would make a second one.
describe() {
  if ! gcloud compute tpus "$1" describe "$TPU_NAME" "${where[@]}" \
    --format="value($2)" 2>"$scratch/errors"; then
    if absent; then echo none && return; fi
    cat "$scratch/errors" >&2
    echo unknown
  fi
}

# Prints ready, wait, gone, none or unknown, and Google's own word for it.
tpu_state() {
  local state
  state=$(describe tpu-vm state)
  if [[ $state == none && $QUEUED == 1 ]]; then
    state=queue-$(describe queued-resources state.state)
  fi
  case $state in
    READY) echo "ready $state" ;;
    PREEMPTED | TERMINATED | STOPPED | HIDDEN) echo "gone $state" ;;
    queue-SUSPENDED | queue-FAILED) echo "gone $state" ;;
    none | queue-none) echo "none absent" ;;
    *ING | queue-WAITING* | queue-ACCEPTED | queue-ACTIVE) echo "wait $state" ;;
    *) echo "unknown $state" ;;
  esac
}

# The newest checkpoint's step in workdir $1; 0 if there is none.
newest_step() {
  gcloud storage ls "$1/checkpoints/" --project="$PROJECT" 2>/dev/null |
    sed -n 's|.*/\([0-9]*\)/$|\1|p' | sort -n | tail -n 1 | grep . || echo 0
}
