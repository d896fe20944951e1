#!/usr/bin/env bash
# Makes the TPU, sets it up, starts a job (prepare_data, pretrain, probe) and
# watches it; after an interruption does so again, until the job is complete:
#   launch/babysit.sh pretrain [FLAG of vicreg_jax.main...]
# Its exit codes are the program's: 0 complete, 1 an error, 75 given up for now.
source "$(dirname "$0")/common.sh"
job=${1:-} workers=all
case $job in
  prepare_data) name=prepare workers=0 ;;
  pretrain) name=$RUN ;;
  probe) name=$PROBE_RUN ;;
  *) say "name a job: prepare_data, pretrain or probe" && exit 1 ;;
esac
shift
export ARCHIVE=$scratch/vicreg_jax.tgz # the run is not to see later edits
trap 'say "$name goes on; the same command finds it again"; exit 130' INT

# Sets outcome; returns the program's exit code, 75 where there is none.
attempt() {
  outcome="making the TPU, setting it up or starting $job failed"
  "$here/create_tpu.sh" || return 75
  found=$(states "$workers" "$name" 2>"$scratch/errors") || true
  if [[ $found != *running* ]]; then
    "$here/setup_tpu.sh" && "$here/$job.sh" "$@" || return 75
  fi
  while say "watching $name" && sleep "$POLL_SECONDS"; do
    outcome="the TPU is $(tpu_state)"
    [[ $outcome == *" ready "* ]] || return 75
    outcome="the workers do not answer"
    found=$(states "$workers" "$name") || return 75
    outcome="$name ended: ${found//$'\n'/, }"
    [[ $found != state=exit:0 ]] || return 0
    if [[ $found == *lost* || $found == *exit:[1-9]* ]]; then break; fi
  done
  on_workers "$workers" stop "$name" || true # the rest of a slice
  # Workers of a slice that lose another one, or their TPU, end with an error
  # too: it is the program's own only where nothing else has happened.
  grep -qx state=exit:1 <<<"$found" || return 75
  ! grep -qE 'lost|exit:75' <<<"$found" || return 75
  sleep "$POLL_SECONDS"
  [[ $(tpu_state) != ready* ]] && return 75 || return 1
}
failures=0 best=-1
while true; do
  attempt "$@" && code=0 || code=$?
  ((code == 75)) || break
  step=$(newest_step "$RUNS/$name")
  if ((step > best)); then best=$step failures=0; fi
  failures=$((failures + 1))
  say "$outcome; checkpoint $step; failure $failures of $MAX_FAILURES"
  ((failures < MAX_FAILURES)) || break
  # A machine may be broken and yet READY: half-way, another one is tried.
  if ((failures == MAX_FAILURES / 2 + 1)) && [[ $(tpu_state) == ready* ]]; then
    "$here/delete_tpu.sh" >/dev/null || true
  fi
  sleep $((BACKOFF_SECONDS << (failures < 7 ? failures - 1 : 6)))
done
if ((code < 75)); then on_workers "$workers" log "$name" || true; fi
say "exit code $code: $outcome. Until delete_tpu.sh the TPU is billed"
exit "$code"
