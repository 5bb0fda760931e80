"""The program of a node's second process: reads large requests as the node reads small ones, and counts texts."""

from __future__ import annotations

from traceback import format_exc

from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.requests.json_body import check_values
from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.http.requests.reader_frames import SETUP, Read, drafter_of, failure_frame, read_frame, refusal_frame
from limiter_node.second_process import Frame, serve
from limiter_node.tokens.process import COUNT, count_frame
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.interface import Drafter


class _Program:
    def __init__(self) -> None:
        self._drafter: Drafter | None = None

    def answer(self, frame: Frame) -> Frame | None:
        if frame.kind == SETUP:
            self._drafter = drafter_of(frame)
            return None
        if frame.kind == COUNT:
            return count_frame(frame)
        try:
            return self._read(frame)
        except (InvalidRequest, NotServed) as error:
            return refusal_frame(error)
        except RecursionError:
            return refusal_frame(InvalidRequest("The JSON body of your request is nested too deeply.", None, None))
        except Exception:
            # As in the node, a bug costs one request: it gets a 500.
            return failure_frame(format_exc())

    def _read(self, frame: Frame) -> Frame:
        assert self._drafter is not None, "the setup frame comes first"
        route, body = LIMITED_ROUTES[frame.head.decode()], bytes(frame.body)
        check_values(body)
        asked = route.parse(body, extra_fields=self._drafter.extra_fields)
        draft = self._drafter.draft(asked, body)
        return read_frame(Read(route.need(asked, draft), draft.content, draft.body is body), draft.body)


def main() -> None:
    """Answer until the node ends."""
    serve(_Program().answer)


if __name__ == "__main__":
    main()
