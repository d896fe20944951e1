#!/usr/bin/env bash
# Deletes the TPU and its place in the queue, if there are any.
source "$(dirname "$0")/common.sh"

failed=0
delete() {
  if gcloud compute tpus "$@" "${where[@]}" 2>"$scratch/errors"; then
    say "$1 $TPU_NAME is deleted"
  elif absent; then
    say "there is no $1 $TPU_NAME"
  else
    cat "$scratch/errors" >&2
    say "$1 $TPU_NAME was NOT deleted, and may be billed"
    failed=1
  fi
}

delete queued-resources delete "$TPU_NAME" --force # with its TPU
delete tpu-vm delete "$TPU_NAME"
echo "The bucket gs://$BUCKET remains, and is billed for what it holds. This" \
  "deletes it, data and results: gcloud storage rm --recursive gs://$BUCKET"
exit "$failed"
