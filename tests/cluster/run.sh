#!/usr/bin/env bash
# Checks training on a real SLURM on this machine, which it installs where it can; where it cannot, it says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
there() { command -v slurmctld slurmd sbatch munged > /dev/null; }
install() {
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
}
if [ "$(id -u)" != 0 ] || ! { there || install > /dev/null 2>&1; }; then
    echo "cluster-test was NOT run: SLURM cannot be installed here (root, and Debian's slurm-wlm and munge, are needed)"
    exit 0
fi
exec .venv/bin/pytest tests/cluster/check_slurm.py "$@"
