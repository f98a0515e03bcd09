"""A request in observe mode."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from django.http.response import HttpResponseBase

from django_idempotency import conf
from django_idempotency.adapters.attempts import route
from django_idempotency.adapters.cookies import warn_of_cookies
from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.core.keys import Attempt
from django_idempotency.core.observation import is_sampled
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.exceptions import Refusal
from django_idempotency.protection.observing import UNSTORABLE, Observation, Subject, log_error, observe, observe_async


def observe_request(adapter: PlainAdapter, outer: OperationHandle | None, view: Callable[[], Any]) -> Any:
    """Call *view*, whose request *adapter* reads, and observe it. *outer* is the handle of an operation around it."""
    request = adapter.django_request

    def call(handle: OperationHandle | None) -> Any:
        request.idempotency = handle or outer
        try:
            return view()
        finally:
            request.idempotency = outer or handle

    return observe(ObservedRequest(adapter), call)


async def observe_async_request(
    adapter: PlainAdapter, outer: OperationHandle | None, view: Callable[[], Awaitable[Any]]
) -> Any:
    """Like `observe_request`, for an async *view*."""
    request = adapter.django_request

    async def call(handle: OperationHandle | None) -> Any:
        request.idempotency = handle or outer
        try:
            return await view()
        finally:
            request.idempotency = outer or handle

    return await observe_async(ObservedRequest(adapter), call)


class ObservedRequest(Subject[Any]):
    """A request of the framework of *adapter*."""

    def __init__(self, adapter: PlainAdapter) -> None:
        super().__init__(adapter.policy)
        self.adapter = adapter

    def operation(self) -> str:
        return self.adapter.operation(route(self.adapter.django_request))

    def is_sampled(self) -> bool:
        share = self.policy.observe_sample
        if share >= 1:
            return True
        key = self.adapter.read_key()
        return not isinstance(key, str) or is_sampled(key, share)

    def read(self) -> Attempt | Refusal | None:
        found = self.adapter.read()
        self.policy = self.adapter.policy  # of a form, if the key is in its field
        return found

    def database(self) -> str | None:
        return conf.database(self.policy, self.adapter.request)

    def judge(self, value: Any, observation: Observation) -> None:
        value = self.adapter.response_of(value)
        if not isinstance(value, HttpResponseBase):
            observation.refusal = UNSTORABLE
        elif getattr(value, "is_rendered", True):
            self._judge(value, observation)
        else:
            response: Any = value  # a TemplateResponse or DRF's, which is rendered later
            response.add_post_render_callback(partial(self._judge_rendered, observation))

    def _judge(self, response: HttpResponseBase, observation: Observation) -> None:
        observation.status = response.status_code
        observation.is_answer = self.adapter.is_answer(response)
        if not observation.is_answer:
            return
        if not self.adapter.is_storable(response):
            observation.refusal = UNSTORABLE
        warn_of_cookies(observation.operation, self.adapter.django_request, response)

    def _judge_rendered(self, observation: Observation, response: HttpResponseBase) -> None:
        try:
            self._judge(response, observation)
        except Exception as error:  # observing is not worth a request
            log_error(observation.operation, error)
