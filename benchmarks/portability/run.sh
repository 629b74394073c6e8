#!/usr/bin/env bash
# Do the shipped bundles say the same on every processor? Each is compared with the exact computation.
#   benchmarks/portability/run.sh [IMAGES] [ARM IMAGES]
# x86 without VNNI (Haswell, Zen 3) and without AVX (Westmere): this processor's own instructions, with the later ones hidden from
# onnxruntime (hide.c), so times count. ARM Cortex-A72 (Raspberry Pi 4) and A76 (Pi 5, with dot products): emulated, so they do not.
# Needs Debian and root for apt; everything else goes to runs/portability. The exit status says whether all agree.
set -euo pipefail
count=${1:-200}
arm_count=${2:-200}
here=$(realpath "$(dirname "$0")")
cd "$here/../.."
python=$PWD/.venv/bin/python
work=$PWD/runs/portability
mkdir -p "$work"
rm -f "$work"/*.npz
missing=()
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v objdump >/dev/null || missing+=(binutils)
if [ ${#missing[@]} -gt 0 ]; then apt-get update -qq && apt-get install -y -qq "${missing[@]}" >/dev/null; fi
if [ ! -d "$work/arm/usr" ]; then # a minimal ARM Python beside this one
  dpkg --add-architecture arm64 && apt-get update -qq
  mkdir -p "$work/debs" && (cd "$work/debs" && apt-get download -qq {python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib,libc6,zlib1g,libexpat1,libssl3,libstdc++6,libgcc-s1,libffi8,libbz2-1.0,liblzma5,libcrypt1}:arm64)
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/arm"; done
  dpkg --remove-architecture arm64
  # onnxruntime 1.27 and later do not start under qemu 7.2
  "$python" -m pip download -q --no-deps --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --python-version 311 --only-binary=:all: -d "$work/wheels" onnxruntime==1.26.0 numpy==2.4.6 flatbuffers protobuf packaging 2>/dev/null
  for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
fi
if [ ! -f "$work/hide.so" ] || [ "$here/hide.c" -nt "$work/hide.so" ]; then
  rm -rf "$work/hidden" && mkdir -p "$work/hidden"
  cp -r "$("$python" -c 'import os, onnxruntime; print(os.path.dirname(onnxruntime.__file__))')" "$work/hidden/"
  "$python" "$here/hide.py" "$work"/hidden/onnxruntime/capi/onnxruntime_pybind11_state*.so
  gcc -shared -fPIC -O1 -o "$work/hide.so" "$here/hide.c"
fi
export OPENBLAS_NUM_THREADS=1
"$python" -m benchmarks.portability.prepare "$work" "$count"
"$python" -c "import numpy as np; np.save('$work/arm.npy', np.load('$work/images.npy')[:$arm_count])"
for graph in int8 float; do
  run() { # NAME IMAGES HOW COMMAND...
    local name=$1 images=$2 how=$3
    shift 3
    "$@" "$here/outputs.py" "$work/$graph.onnx" "$work/$images.npy" "$work/$graph-$name.npz" "$how"
  }
  run exact images exact "$python"
  run here images kernels "$python"
  if [ "$(uname -m)" = x86_64 ]; then
    for hide in vnni avx; do
      run "x86 without $hide" images kernels env BINSIGHT_HIDE=$hide LD_PRELOAD="$work/hide.so" PYTHONPATH="$work/hidden" "$python"
    done
  fi
  for cpu in cortex-a72 cortex-a76; do
    run "qemu $cpu" arm kernels env PYTHONHOME="$work/arm/usr" PYTHONPATH="$work/site" qemu-aarch64 -cpu $cpu -L "$work/arm" "$work/arm/usr/bin/python3.11" &
  done
  wait
done
"$python" -m benchmarks.portability.compare "$work"
