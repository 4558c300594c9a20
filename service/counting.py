"""What every route that answers images does once it has answered: counts it, shows it to the watch, remembers it for feedback, and may keep it."""

from collections.abc import Sequence

from starlette.background import BackgroundTask
from starlette.requests import Request

from service.bundle.preprocess import Pixels
from service.context import context_of, request_id_of, timing_of
from service.decoder import Upload
from service.feedback import Answered
from service.model import Model
from service.verdict import Choice, Judged, Verdict


class Counting(BackgroundTask):
    """`count`, once the answer is on its way. It never awaits: between two requests all counts agree."""

    def __init__(self, request: Request, model: Model, choice: Choice, verdict: Verdict, judged: Judged, images: Sequence[Upload] | Pixels) -> None:
        # Not as the base does it: it would look into what kind of function it is given, while the client waits.
        self.what = (request, model, choice, verdict, judged, images)

    async def __call__(self) -> None:
        count(*self.what)


def count(request: Request, model: Model, choice: Choice, verdict: Verdict, judged: Judged, images: Sequence[Upload] | Pixels) -> None:
    """Answered images (N), and what was decided."""
    context, timing, request_id = context_of(request), timing_of(request), request_id_of(request)
    for stage in ("queue", "infer", "encode"):
        context.metrics.stage[stage].observe(getattr(timing, stage))
    timing.rejected = verdict.rejected.tolist().count(True)
    context.metrics.count(model, choice, verdict, [model.decide(judged, shadow) for shadow in model.shadows])
    context.recent.remember(request_id, Answered(model.watch, model.observe(judged)))
    if context.capture is not None:
        context.capture.offer(request_id, model, choice, verdict, judged, images)
