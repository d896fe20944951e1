# shellcheck shell=bash disable=SC2034 # the scripts use them
# The settings of all scripts, which source this file. What has no default is
# given in the environment; the rest may be:
#   export PROJECT=my-project ZONE=europe-west4-a BUCKET=my-bucket TPU_NAME=tpu
: "${PROJECT:?set it to the Google Cloud project that pays}"
: "${ZONE:?set it to a zone with TPU quota, europe-west4-a for example}"
: "${BUCKET:?set it to the bucket for data and results, in that region}"
: "${TPU_NAME:?set it to a name for the TPU}"
BUCKET=${BUCKET#gs://} BUCKET=${BUCKET%/}

ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v3-8} # v3-32: a slice of four workers
RUNTIME_VERSION=${RUNTIME_VERSION:-tpu-ubuntu2204-base}
PYTHON_VERSION=${PYTHON_VERSION:-3.12}
SPOT=${SPOT:-0}     # 1: cheaper, and may be taken away at any time
QUEUED=${QUEUED:-0} # 1: wait in Google's queue until there is a TPU
if [[ $SPOT$QUEUED != [01][01] ]]; then
  echo "SPOT is '$SPOT' and QUEUED is '$QUEUED': set each to 0 or 1" >&2
  exit 1
fi

CONFIG=${CONFIG:-configs/vicreg_fma.py}
RUN=${RUN:-$(basename "$CONFIG" .py)}
PROBE_CONFIG=${PROBE_CONFIG:-configs/probe_mtat.py}
PROBE_RUN=${PROBE_RUN:-$RUN-probe}
RUNS=gs://$BUCKET/runs
DATA_DIR=${DATA_DIR:-gs://$BUCKET/prepared}
FETCH_CHECKPOINTS=${FETCH_CHECKPOINTS:-0} # 1: fetch.sh gets them too

POLL_SECONDS=${POLL_SECONDS:-60}
BACKOFF_SECONDS=${BACKOFF_SECONDS:-60} # doubled at each failure, six times
MAX_FAILURES=${MAX_FAILURES:-10}       # in a row, without a new checkpoint
