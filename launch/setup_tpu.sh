#!/usr/bin/env bash
# Copies the project to every worker of the TPU and installs it there. Refuses
# while a run is going on, whose code it would replace.
source "$(dirname "$0")/common.sh"

archive=${ARCHIVE:-$scratch/vicreg_jax.tgz}
if [[ ! -s $archive ]]; then
  tar -czf "$archive" --exclude=__pycache__ -C "$here/.." \
    pyproject.toml README.md LICENSE vicreg_jax configs launch
fi
say "copying the project to every worker of $TPU_NAME"
gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:vicreg_jax.tgz" \
  "${where[@]}" --worker=all
say "installing Python $PYTHON_VERSION and the project there"
version=$(printf %q "$PYTHON_VERSION")
gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all \
  --command="rm -rf vicreg_jax.new && mkdir vicreg_jax.new &&
    tar -xzf vicreg_jax.tgz -C vicreg_jax.new &&
    bash vicreg_jax.new/launch/on_worker.sh setup $version"
say "TPU $TPU_NAME is set up"
