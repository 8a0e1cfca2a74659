//! Canonical graphs: ONNX import, shape inference, executor and commitments
