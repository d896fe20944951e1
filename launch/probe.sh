#!/usr/bin/env bash
# Starts to probe the encoder of RUN by PROBE_CONFIG, on every worker. Further
# flags of vicreg_jax.main may follow.
source "$(dirname "$0")/common.sh"

on_workers all start "$PROBE_RUN" tpu,cpu --config="$PROBE_CONFIG" \
  --workdir="$RUNS/$PROBE_RUN" --config.data.dir="$DATA_DIR" \
  --config.checkpoint="$RUNS/$RUN" --multihost "$@"
say "$PROBE_RUN is going on; its results go to $RUNS/$PROBE_RUN"
