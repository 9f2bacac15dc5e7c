"""What computes logits: torch, OpenVINO, ONNX Runtime, compiled packages; and which of them is fastest here."""
