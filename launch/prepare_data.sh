#!/usr/bin/env bash
# Starts to decode a data set into DATA_DIR, on the TPU's first worker:
#   launch/prepare_data.sh --config.data.name=fma --config.data.path=DIR
# The TPU is billed meanwhile; without one, see README.md.
source "$(dirname "$0")/common.sh"

on_workers 0 start prepare cpu --config=configs/prepare.py \
  --config.data.dir="$DATA_DIR" "$@"
say "decoding to $DATA_DIR"
