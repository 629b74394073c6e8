"""Run one graph over prepared images with the onnxruntime and processor here; keep its outputs.

    python outputs.py MODEL.onnx IMAGES.npy OUT.npz kernels|exact

"exact" is without graph optimisation: int8 is then computed in float, which no processor saturates.
"""

import statistics
import sys
import time

import numpy as np
import onnxruntime

model, images, out, how = sys.argv[1:5]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
if how == "exact":
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
logits = []
embeddings = []
times = []
for x in np.load(images):
    started = time.monotonic()
    row, embedding = session.run(["logits", "embedding"], {"pixels": x[None]})
    times.append(1000 * (time.monotonic() - started))
    logits.append(row[0])
    embeddings.append(embedding[0])
np.savez(out, logits=logits, embeddings=embeddings, ms=statistics.median(times))
