#!/usr/bin/env bash
# What the other scripts have every worker of the TPU do, over ssh:
#   on_worker.sh setup PYTHON_VERSION
#   on_worker.sh start NAME JAX_PLATFORMS FLAG...   of vicreg_jax.main
#   on_worker.sh status|stop|log NAME
# A run has to outlive the connection that starts it: it gets a session of its
# own, holds a lock as long as one of its processes lives, and leaves its exit
# code in a file. tmux would not keep the code; systemd-run would need root.
set -euo pipefail
cd "$HOME"
verb=$1 name=$2
runs=$HOME/vicreg_runs python=$HOME/vicreg_venv/bin/python
mkdir -p "$runs"
exec 9>>"$runs/lock"
is_current() { [[ $(cat "$runs/current") == "$name" ]]; }

case $verb in
  setup)
    flock --wait 0.5 9 || { echo "a run is going on here" >&2 && exit 1; }
    rm -rf vicreg_jax && mv vicreg_jax.new vicreg_jax
    # The image's Python, 3.10, is too old for JAX. uv needs neither root nor
    # apt, whose lock a fresh machine holds while it updates itself.
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --allow-existing --python "$2" vicreg_venv
    python3 -m uv pip install -q --python "$python" -e './vicreg_jax[tpu,gcs]'
    ;;
  start)
    if ! flock --wait 0.5 9; then
      going=$(cat "$runs/current")
      if [[ ! -e $runs/$going.exit ]]; then
        if [[ $going == "$name" ]]; then exit 0; fi
        echo "$going is going on here: wait for its end" >&2
        exit 1
      fi
      flock --wait 30 9 # it is over, and about to let go
    fi
    rm -f "$runs/$name.exit"
    echo "$name" >"$runs/current"
    cd vicreg_jax
    # With its platform named, JAX fails rather than trains on the CPU.
    # shellcheck disable=SC2016
    JAX_PLATFORMS=$3 setsid bash -c 'trap : TERM INT; "${@:2}"
      echo $? >"$1.new"; mv "$1.new" "$1"' _ "$runs/$name.exit" \
      "$python" -m vicreg_jax.main "${@:4}" \
      >>"$runs/$name.log" 2>&1 </dev/null &
    echo $! >"$runs/pid"
    ;;
  status) # the lock first: the code is written before the lock is let go
    state=lost
    if ! flock --nonblock 9 && is_current; then state=running; fi
    if [[ -e $runs/$name.exit ]]; then state=exit:$(cat "$runs/$name.exit"); fi
    echo "vicreg_jax-state=$state"
    ;;
  stop) # as a preemption does; what does not listen is killed
    if flock --nonblock 9 || ! is_current; then exit 0; fi
    kill -TERM -- "-$(cat "$runs/pid")"
    flock --wait 120 9 || kill -KILL -- "-$(cat "$runs/pid")"
    ;;
  log) tail -n 40 "$runs/$name.log" ;;
esac
