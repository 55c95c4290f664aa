"""The MLflow model of Unveil, packaged as code: MLflow runs this file, next to safetensors weights. No pickle."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from de_model import checkpoint
from de_model.packaging import WEIGHTS, answer

# MLflow misses type hints on `predict` and overrides every filter; the signature says more than they could.
with warnings.catch_warnings(record=True):

    class UnveilModel(PythonModel):
        """Restores scenes; `de_model.packaging.answer` states shapes and units."""

        def load_context(self, context: PythonModelContext) -> None:
            """Load the weights, on the GPU where there is one."""
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self.enhancer = checkpoint.load(Path(context.artifacts[WEIGHTS]), device)

        # MLflow would derive a schema from annotations, and knows none for named tensors; the signature has it.
        def predict(self, model_input, params=None):  # type: ignore[no-untyped-def]
            """Return the named tensors of an `Answer` for the named tensors `scene` and `needed`."""
            return answer(self.enhancer, model_input, params).to_tensors()


set_model(UnveilModel())
