"""Sessions and caches in Redis, through django-redis, around protected views."""

import pytest
from django.core.cache import cache
from django.test import Client
from django.views import View
from rest_framework.throttling import UserRateThrottle

from tests.app.models import Payment
from tests.app.serving import drf, drf_class, is_replay, plain, post
from tests.app.views import answer, make_payment
from tests.lab.caches import cache as redis_cache

pytestmark = pytest.mark.django_db


@pytest.fixture
def redis(settings, worker_id):
    """Django's cache in Redis, in a space of this worker's own."""
    settings.CACHES = {"default": redis_cache(KEY_PREFIX=f"wire-{worker_id}")}
    cache.delete_pattern("*")
    yield cache
    cache.delete_pattern("*")
    cache.close()


@pytest.fixture
def middleware(settings, redis):
    """Sessions in that cache, and Django's cache of whole pages around everything."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    settings.CACHE_MIDDLEWARE_KEY_PREFIX = "pages"
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]


def test_a_session_in_redis(user, middleware, serve):
    """What the handler writes into the session is there once; the replay leaves it alone."""

    def handler(request):
        request.session["payments"] = request.session.get("payments", 0) + 1
        return make_payment(request)

    serve(plain(handler))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    assert cache.keys("*")

    first, second = post(client), post(client)

    assert (first.status_code, second.status_code) == (201, 201)
    assert is_replay(second)
    assert second.content == first.content
    assert client.session["payments"] == 1
    assert Payment.objects.count() == 1


def test_a_page_cache_in_redis(user, middleware, serve):
    """A POST is neither answered from Django's page cache nor put into it; GETs of the view still are."""
    served = []

    class Pay(View):
        def get(self, request):
            served.append(1)
            return answer(request, {}, 200)

        post = plain(lambda self, request: make_payment(request))

    serve(Pay.as_view())
    client = Client()

    for _ in range(2):
        assert client.get("/act/").status_code == 200
    assert served == [1]
    assert [is_replay(post(client)) for _ in range(2)] == [False, True]
    assert [is_replay(post(client, key="key-2")) for _ in range(2)] == [False, True]
    assert Payment.objects.count() == 2


def test_throttles_count_in_redis(api, redis, serve, settings):
    """DRF's throttles keep their counts in the cache; a replay counts like a request, and 429 is not stored."""

    class Twice(UserRateThrottle):
        rate = "2/hour"
        cache = redis

    serve(drf_class(make_payment, throttle_classes=[Twice]))

    responses = [post(api) for _ in range(3)]

    assert [response.status_code for response in responses] == [201, 201, 429]
    assert is_replay(responses[1])


def test_a_handler_that_uses_the_cache(api, redis, serve):
    """The cache is not part of the transaction: what a handler puts there stays, whatever becomes of its work."""

    def handler(request):
        runs = cache.get_or_set("runs", 0) + 1
        cache.set("runs", runs)
        return answer(request, {"runs": runs}, 422 if runs == 1 else 201)

    serve(drf(handler))

    assert [post(api).status_code for _ in range(3)] == [422, 201, 201]
    assert cache.get("runs") == 2
