"""The one place that imports onnxruntime: with its telemetry off.

Before the import, or it writes an identifier into the home folder and reports its use to its makers (1.32 on Linux does).
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

__all__ = ["ort"]
