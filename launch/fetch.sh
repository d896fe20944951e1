#!/usr/bin/env bash
# Copies the results of RUN and PROBE_RUN from the bucket to runs/. Checkpoints
# are gigabytes, which leave Google's network at a price: FETCH_CHECKPOINTS=1.
source "$(dirname "$0")/common.sh"

flags=(--recursive)
if [[ $FETCH_CHECKPOINTS != 1 ]]; then flags+=(--exclude='^checkpoints/.*'); fi
found=0
for name in "$RUN" "$PROBE_RUN"; do
  if gcloud storage ls "$RUNS/$name/" --project="$PROJECT" \
    >"$scratch/list" 2>>"$scratch/errors"; then
    mkdir -p "runs/$name"
    gcloud storage rsync "$RUNS/$name" "runs/$name" "${flags[@]}" \
      --project="$PROJECT"
    say "$RUNS/$name is in runs/$name"
    found=1
  fi
done
if ((!found)); then
  cat "$scratch/errors" >&2
  say "there is neither $RUNS/$RUN nor $RUNS/$PROBE_RUN"
  exit 1
fi
