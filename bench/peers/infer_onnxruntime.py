"""Peer: onnxruntime, encoders only, on the graph that its own optimiser fused."""

import numpy as np
import onnxruntime
from infer_protocol import in_calls, padded, serve


class OnnxRuntime:
    def __init__(self, folder, kind, form, n_threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
        self.session = onnxruntime.InferenceSession(f"{folder}/onnx-{form}/model.onnx", options, providers=["CPUExecutionProvider"])

    def encode(self, rows, per_call):
        return [vector.tolist() for call in in_calls(rows, per_call) for vector in self._encode(call)]

    def _encode(self, rows):
        token_ids, mask = (np.array(values, dtype=np.int64) for values in padded(rows))
        inputs = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(token_ids)}
        (hidden,) = self.session.run(["last_hidden_state"], inputs)
        return [tokens[: len(row)].mean(axis=0) for tokens, row in zip(hidden, rows, strict=True)]


serve(OnnxRuntime, onnxruntime.__version__)
