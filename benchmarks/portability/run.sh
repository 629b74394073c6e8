#!/usr/bin/env bash
# Does the int8 graph say the same on other processors? Emulated: an ARM Cortex-A72 (Raspberry Pi 4) and an Intel Haswell,
# which has AVX2 and no VNNI, so that its U8S8 kernels may saturate. Numbers are the processors' own; times are not.
#   benchmarks/portability/run.sh FLOAT.onnx [PICTURES]
# Needs Debian, root for apt, qemu-user; everything else goes to runs/portability.
set -euo pipefail
float=$(realpath "${1:?name the float bundle}")
count=${2:-24}
here=$(realpath "$(dirname "$0")")
python=$(realpath "$here/../../.venv/bin/python" --no-symlinks)
cd "$here/../.."
work=$PWD/runs/portability
mkdir -p "$work"
command -v qemu-aarch64 >/dev/null || { apt-get update -qq; apt-get install -y -qq qemu-user; }
if [ ! -d "$work/arm/usr" ]; then # a minimal ARM Python beside this one
  dpkg --add-architecture arm64 && apt-get update -qq
  mkdir -p "$work/debs" && (cd "$work/debs" && apt-get download -qq {python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib,libc6,zlib1g,libexpat1,libssl3,libstdc++6,libgcc-s1,libffi8,libbz2-1.0,liblzma5,libcrypt1}:arm64)
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/arm"; done
  dpkg --remove-architecture arm64
  # onnxruntime 1.27 and later do not start under qemu 7.2
  "$python" -m pip download -q --no-deps --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --python-version 311 --only-binary=:all: -d "$work/wheels" onnxruntime==1.26.0 "numpy==$("$python" -c 'import numpy; print(numpy.__version__)')" flatbuffers protobuf packaging
  for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
fi
"$python" -m benchmarks.portability.prepare "$float" "$work" "$count"
export OPENBLAS_NUM_THREADS=1
for graph in u8s8 s8s8 u8s7; do
  "$python" "$here/logits.py" "$work/$graph.onnx" "$work/pictures.npy" "$work/$graph-native.npy"
  PYTHONHOME=$work/arm/usr PYTHONPATH=$work/site qemu-aarch64 -cpu cortex-a72 -L "$work/arm" "$work/arm/usr/bin/python3.11" \
    "$here/logits.py" "$work/$graph.onnx" "$work/pictures.npy" "$work/$graph-arm.npy"
  qemu-x86_64 -cpu Haswell "$python" "$here/logits.py" "$work/$graph.onnx" "$work/pictures.npy" "$work/$graph-haswell.npy" 2>/dev/null
done
"$python" -m benchmarks.portability.compare "$work"
