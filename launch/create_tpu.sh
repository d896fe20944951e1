#!/usr/bin/env bash
# Sees to it that the TPU is there and ready: waits for one that is on its way,
# replaces one that was taken away. SPOT=1 and QUEUED=1 say how it is made.
source "$(dirname "$0")/common.sh"

create() {
  local command=(tpu-vm create "$TPU_NAME" --version="$RUNTIME_VERSION")
  if [[ $QUEUED == 1 ]]; then
    command=(queued-resources create "$TPU_NAME" --node-id="$TPU_NAME"
      --runtime-version="$RUNTIME_VERSION")
  fi
  if [[ $SPOT == 1 ]]; then command+=(--spot); fi
  say "asking for $ACCELERATOR_TYPE: ${command[*]}"
  gcloud compute tpus "${command[@]}" "${where[@]}" \
    --accelerator-type="$ACCELERATOR_TYPE" 2>"$scratch/errors" && return
  # Another call of this script was faster.
  if ! grep -qiE 'already.?exists' "$scratch/errors"; then
    cat "$scratch/errors" >&2
    return 1
  fi
}

asked=0
while true; do
  read -r kind word <<<"$(tpu_state)"
  case $kind in
    ready)
      say "TPU $TPU_NAME is ready"
      exit 0
      ;;
    wait)
      say "TPU $TPU_NAME is $word; looking again in $POLL_SECONDS s"
      sleep "$POLL_SECONDS"
      ;;
    none | gone)
      say "TPU $TPU_NAME is $word"
      if ((asked)); then exit 1; fi # babysit.sh decides whether to go on
      if [[ $kind == gone ]]; then "$here/delete_tpu.sh" >/dev/null; fi
      create
      asked=1
      ;;
    *)
      say "the state of TPU $TPU_NAME is $word; nothing was done"
      exit 1
      ;;
  esac
done
