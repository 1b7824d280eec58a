#!/usr/bin/env bash
# On a machine with an accelerator: the tests marked gpu, then one table, seconds per step and memory beside plain PyTorch.
# Without one the tests are skipped, with the reason. Run in an environment with `pip install -e '.[test]'`.
#   tests/gpu.sh [DEVICE]     auto by default, or cuda, cuda:1, mps, xpu
set -euo pipefail
cd "$(dirname "$0")/.."
device="${1:-auto}"
python -m pytest -n 0 -q -m gpu tests/device
if ! python -c "import sys, torch; sys.exit(not torch.accelerator.is_available())"; then
    echo "torch finds no accelerator on this machine: no table"
    exit 0
fi
for precision in 32 bf16-mixed 16-mixed; do
    python tests/bench/training_loop.py --device "$device" --precision "$precision" --size 224 --batches 20 \
        --models digits resnet18 | if [ "$precision" = 32 ]; then cat; else tail -n +3; fi
done
