"""Run one graph over prepared pictures with whatever onnxruntime and processor are here, and keep the logits.

python logits.py MODEL.onnx PICTURES.npy LOGITS.npy
"""

import platform
import sys
import time

import numpy as np
import onnxruntime

model, pictures, out = sys.argv[1:4]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
started = time.monotonic()
rows = [session.run(["logits"], {"pixels": x[None]})[0][0] for x in np.load(pictures)]
np.save(out, np.array(rows))
took = (time.monotonic() - started) / len(rows)
print(
    f"{platform.machine()}, onnxruntime {onnxruntime.__version__}: {len(rows)} pictures, {took:.2f} s each", flush=True
)
