#!/usr/bin/env bash
# Starts, or continues, the pretraining CONFIG as RUN on every worker. Further
# flags of vicreg_jax.main may follow: launch/pretrain.sh --config.seed=1
source "$(dirname "$0")/common.sh"

on_workers all start "$RUN" tpu,cpu --config="$CONFIG" \
  --workdir="$RUNS/$RUN" --config.data.dir="$DATA_DIR" --multihost "$@"
say "$RUN is going on; its results go to $RUNS/$RUN"
