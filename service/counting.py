"""What every route that answers images does with what it answered: counts it, shows it to the watch, remembers it for feedback, and may keep it."""

from collections.abc import Sequence

from starlette.requests import Request

from service.bundle.preprocess import Pixels
from service.context import context_of, timing_of
from service.decoder import Upload
from service.feedback import Answered
from service.model import Model
from service.place import Array
from service.verdict import Choice, Verdict


def count(
    request: Request, model: Model, choice: Choice, verdict: Verdict, probabilities: Array, scores: Array, images: Sequence[Upload] | Pixels
) -> None:
    """Answered images: probabilities (N, C), scores (N, P) and what was decided. Never awaits: between two requests all counts agree."""
    context = context_of(request)
    timing_of(request).rejected = sum(verdict.rejected.tolist())
    shadows = [model.judge(probabilities, scores, shadow) for shadow in model.shadows]
    context.metrics.count(model, choice, verdict, probabilities.argmax(axis=1).tolist(), shadows)
    context.recent.remember(request.state.request_id, Answered(model.watch, model.observe(probabilities, scores, choice, verdict)))
    if context.capture is not None:
        context.capture.offer(request.state.request_id, model, choice, verdict, probabilities, scores, images)
