"""Every kind of view that can be protected, and every place where the decorator must not stand."""

import pytest
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpResponse
from django.test import Client
from django.urls import include, path, re_path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from django.views.decorators.vary import vary_on_headers
from django.views.generic import CreateView
from rest_framework import generics, mixins, routers, viewsets
from rest_framework.decorators import api_view, authentication_classes, parser_classes, permission_classes
from rest_framework.parsers import JSONParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.test import APIRequestFactory, force_authenticate
from rest_framework.views import APIView

from django_idempotency import Policy, idempotent
from django_idempotency.models import IdempotencyRecord
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.app.views import PaymentSerializer, PaymentViewSet, make_payment

pytestmark = pytest.mark.django_db

# --- the test project's views ---

URLS = {
    "function": "/pay/",
    "method of an APIView": "/method/",
    "method with a parameter": "/method/7/",
    "mixin": "/mixed/",
    "format suffix": "/mixed.json",
    "generic view": "/generic/",
    "viewset": "/api/payments/",
    "viewset under another prefix": "/api/charges/",
    "action": "/api/payments/7/refund/",
    "action of a list": "/api/payments/transfer/",
    "action with a route of its own": "/api/payments/7/notes/red/",
    "action with a format suffix": "/api/payments/7/refund.json",
    "decorated action": "/api/actions/7/capture/",
    "version in the path": "/v3/by-path/",
    "version in the namespace": "/v2/payments/",
    "plain function": "/plain/",
    "plain class": "/plain-class/",
    "plain method": "/plain-method/",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_a_protected_view_takes_effect_once(api, browser, url):
    """Whatever kind it is: the same bytes for the retry, 422 for another payload, one effect."""
    client = browser if "plain" in url else api

    first, second = post(client, url=url), post(client, url=url)

    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert is_replay(second)
    assert post(client, {"amount": 11}, url).status_code == 422
    assert Payment.objects.count() == 1


def test_the_same_key_on_different_routes_is_different_actions(api):
    """The route tells operations apart: prefixes, versions by namespace, format suffixes, actions."""
    urls = ["/api/payments/", "/api/charges/", "/v1/payments/", "/v2/payments/", "/mixed/", "/mixed.json", "/pay/"]

    for url in urls:
        assert not is_replay(post(api, url=url))
    for url in urls:
        assert is_replay(post(api, url=url))
    assert IdempotencyRecord.objects.count() == len(urls)


def test_the_operation_is_method_and_route(api):
    """As the URLconf spells it, whatever the parameters."""
    post(api, url="/method/7/")

    assert IdempotencyRecord.objects.get().operation == "POST method/<int:account>/"


def test_an_action_with_several_methods(api):
    """POST and PATCH of one action are two operations; DELETE passes through."""
    url = "/api/payments/7/refund/"

    for method in ("post", "patch", "delete", "post", "patch", "delete"):
        response = getattr(api, method)(url, {"amount": 1}, headers={"Idempotency-Key": "k"})
        assert response.status_code == 201

    assert sorted(payment.reference for payment in Payment.objects.all()) == [
        "DELETE refund",
        "DELETE refund",
        "PATCH refund",
        "POST refund",
    ]


def test_an_action_with_a_mapping(api):
    """`@note.mapping.patch` is another handler of the same route, and protected as well."""
    url = "/api/payments/7/notes/red/"

    for _ in range(2):
        assert api.post(url, {"amount": 1}, headers={"Idempotency-Key": "k"}).json()["reference"] == "new red"
        assert api.patch(url, {"amount": 1}, headers={"Idempotency-Key": "k"}).json()["reference"] == "changed red"

    assert Payment.objects.count() == 2


def test_a_model_viewset(api):
    """Create and partial update are protected; reading, PUT and DELETE are as ever."""
    pk = post(api, {"amount": 1}, "/api/payments/").json()["id"]
    url = f"/api/payments/{pk}/"

    first = api.patch(url, {"amount": 2}, headers={"Idempotency-Key": "k"})
    Payment.objects.filter(pk=pk).update(amount=3)
    second = api.patch(url, {"amount": 2}, headers={"Idempotency-Key": "k"})

    assert first.json() == second.json() == {"id": pk, "amount": 2, "reference": ""}
    assert is_replay(second)
    assert api.get(url, headers={"Idempotency-Key": "k"}).json()["amount"] == 3
    for _ in range(2):
        assert api.put(url, {"amount": 4}, headers={"Idempotency-Key": "k"}).json()["amount"] == 4
    assert [api.delete(url, headers={"Idempotency-Key": "k"}).status_code for _ in range(2)] == [204, 404]


def test_a_replay_outlives_what_it_is_about(api):
    """An object that is gone since has had its answer: the retry of the PATCH gets it, not a 404."""
    pk = post(api, {"amount": 1}, "/api/payments/").json()["id"]
    url = f"/api/payments/{pk}/"
    assert api.patch(url, {"amount": 2}, headers={"Idempotency-Key": "k"}).status_code == 200
    api.delete(url)

    assert is_replay(api.patch(url, {"amount": 2}, headers={"Idempotency-Key": "k"}))


def test_a_method_that_the_view_has_not_is_405(api):
    """With the mixin or without, and no record is made."""
    for url in ("/mixed/", "/generic/", "/method/"):
        assert api.patch(url, {}, headers={"Idempotency-Key": "k"}).status_code == 405
    assert not IdempotencyRecord.objects.exists()


# --- further shapes ---


def once_and_replayed(client, url: str = "/act/") -> bool:
    first, second = post(client, url=url), post(client, url=url)
    assert first.status_code == 201, first.content
    assert second.content == first.content
    return is_replay(second) and Payment.objects.count() == 1


def test_a_function_with_the_other_decorators_of_drf(api, serve):
    """They stand between `@api_view` and ours, or inside of ours."""

    @api_view(["POST"])
    @permission_classes([IsAuthenticated])
    @idempotent
    @parser_classes([JSONParser])
    def view(request):
        return make_payment(request)

    serve(view)

    assert once_and_replayed(api)


@pytest.mark.parametrize(
    "bases",
    [
        (generics.CreateAPIView,),
        (mixins.CreateModelMixin, generics.GenericAPIView),
    ],
    ids=["CreateAPIView", "mixins"],
)
def test_generic_views_through_the_mixin(api, serve, bases):
    """The mixin steps in whatever the handler is made of."""
    namespace = {"queryset": Payment.objects.all(), "serializer_class": PaymentSerializer}
    if len(bases) == 2:
        namespace["post"] = lambda self, request: self.create(request)
    serve(type("CreatePayment", (IdempotencyMixin, *bases), namespace).as_view())

    assert once_and_replayed(api)


def test_a_viewset_whose_create_is_decorated(api, serve):
    """The decorator stands on the action, without the mixin."""

    class ViewSet(viewsets.ModelViewSet):
        queryset = Payment.objects.all()
        serializer_class = PaymentSerializer

        @idempotent
        def create(self, request, *args, **kwargs):
            return super().create(request, *args, **kwargs)

    router = routers.SimpleRouter()
    router.register("act", ViewSet)
    serve(path("", include(router.urls)))

    assert once_and_replayed(api)


def test_method_decorator_on_a_drf_class(api, serve):
    """`method_decorator` works for DRF's methods too."""

    @method_decorator(idempotent(required=True), name="post")
    class Pay(APIView):
        def post(self, request):
            return make_payment(request)

    serve(Pay.as_view())

    assert post(api, key=None).status_code == 400
    assert once_and_replayed(api)


def test_method_decorator_on_a_plain_method(browser, serve):
    """On the method itself, with options."""

    class Pay(View):
        @method_decorator(idempotent(required=True))
        def post(self, request):
            return make_payment(request)

    serve(Pay.as_view())

    assert post(browser, key=None).status_code == 400
    assert once_and_replayed(browser)


def test_a_plain_dispatch(browser, serve):
    """Around `dispatch` every unsafe method of a plain class is protected, and GET passes through."""

    @method_decorator(idempotent, name="dispatch")
    class Pay(View):
        def get(self, request):
            return HttpResponse(f"handle: {request.idempotency}")

        def post(self, request):
            return make_payment(request)

    serve(Pay.as_view())

    assert once_and_replayed(browser)
    assert browser.get("/act/", headers={"Idempotency-Key": "k"}).content == b"handle: None"


def test_a_plain_as_view(browser, serve):
    """Around `as_view()` of a plain class that guards nothing it may stand as well."""

    class Pay(View):
        def post(self, request):
            return make_payment(request)

    serve(idempotent(Pay.as_view()))

    assert once_and_replayed(browser)


def test_djangos_generic_editing_views(browser, serve):
    """A form that is sent twice creates once, and the second answer is the first's redirect."""

    class Pay(CreateView):
        model = Payment
        fields = ["amount", "reference"]
        success_url = "/done/"

        @method_decorator(idempotent)
        def post(self, request, *args, **kwargs):
            return super().post(request, *args, **kwargs)

    serve(Pay.as_view())

    first, second = (
        browser.post("/act/", {"amount": 10, "reference": "x"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    )

    assert (first.status_code, first.url) == (second.status_code, second.url) == (302, "/done/")
    assert is_replay(second)
    assert Payment.objects.count() == 1


def test_login_required_mixin_stands_outside_of_post(browser, client_without_session, serve):
    """The class asks who is there before our method is reached."""

    class Pay(LoginRequiredMixin, View):
        @method_decorator(idempotent)
        def post(self, request):
            return make_payment(request)

    serve(Pay.as_view())

    assert once_and_replayed(browser)
    assert post(client_without_session).status_code == 302


@pytest.fixture
def client_without_session():
    return Client()


def test_the_request_by_keyword(browser, user, serve):
    """A view may be called by name, as some wrappers do."""

    @idempotent
    def view(request):
        return make_payment(request)

    serve(lambda request: view(request=request))

    assert once_and_replayed(browser)


def test_a_request_that_no_url_led_to(user):
    """`APIRequestFactory` resolves nothing; the operation is then the route of the path, or the path."""
    view = PaymentViewSet.as_view({"post": "create"})

    def send(path):
        request = APIRequestFactory().post(path, {"amount": 1}, headers={"Idempotency-Key": "k"})
        force_authenticate(request, user)
        return view(request)

    for path_ in ("/api/payments/", "/nowhere/"):
        assert send(path_).status_code == 201
        assert is_replay(send(path_))

    assert {record.operation for record in IdempotencyRecord.objects.all()} == {"POST api/payments/$", "POST /nowhere/"}


def test_a_regular_expression_route(api, serve):
    """`re_path` with groups is one operation, and another path of it another request."""
    serve(
        re_path(r"^act/(?P<kind>[a-z]+)/$", api_view(["POST"])(idempotent(lambda request, kind: make_payment(request))))
    )

    assert once_and_replayed(api, "/act/card/")
    assert post(api, url="/act/cash/").status_code == 422


@pytest.mark.parametrize("order", ["outside", "inside", "absent"])
def test_csrf_exempt_is_kept_either_way(user, serve, settings, order):
    """A webhook's exemption survives our decorator, and we exempt nobody."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    view = {
        "outside": lambda: csrf_exempt(idempotent(make_payment)),
        "inside": lambda: idempotent(csrf_exempt(make_payment)),
        "absent": lambda: idempotent(make_payment),
    }[order]()
    serve(view)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)

    assert post(client).status_code == (403 if order == "absent" else 201)


def test_other_decorators_around_and_inside(browser, serve):
    """What stands inside of ours is stored with the answer, what stands outside is added anew."""
    serve(require_POST(vary_on_headers("X-Outside")(idempotent(vary_on_headers("X-Inside")(make_payment)))))

    assert browser.get("/act/", headers={"Idempotency-Key": "k"}).status_code == 405
    assert once_and_replayed(browser)
    vary = post(browser)["Vary"]
    assert vary.count("X-Inside") == vary.count("X-Outside") == 1


# --- wrong places ---


def test_a_policy_without_mixin_or_decorator_protects_nothing(api, serve):
    """It is options, no more: the system checks tell of it."""

    class Pay(APIView):
        idempotency = Policy(required=True)

        def post(self, request):
            return make_payment(request)

    serve(Pay.as_view())

    assert post(api, key=None).status_code == 201


def test_authentication_classes_of_a_function(api, serve):
    """A function view that lets anybody in is anonymous to us too."""

    @api_view(["POST"])
    @authentication_classes([])
    @permission_classes([])
    @idempotent
    def anybody(request):
        return make_payment(request)

    serve(anybody)

    assert once_and_replayed(api)
    assert IdempotencyRecord.objects.get().scope.startswith("credential:")
