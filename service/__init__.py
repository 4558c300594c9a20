"""The online half of oodgate: loads bundles with onnxruntime and answers over HTTP. Never imports torch or `training`."""

__version__ = "0.1.0"
