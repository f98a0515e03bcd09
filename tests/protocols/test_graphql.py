"""GraphQL over one POST route, with the views of Strawberry and graphene."""

import json

import graphene
import pytest
import strawberry
from asgiref.sync import sync_to_async
from django.views.decorators.csrf import csrf_exempt
from graphene_django.views import GraphQLView as GrapheneView
from strawberry.django.views import AsyncGraphQLView as AsyncStrawberryView
from strawberry.django.views import GraphQLView as StrawberryView
from strawberry.schema.config import StrawberryConfig

from django_idempotency import idempotent, keys, outcomes
from django_idempotency.exceptions import UnstorableResponse
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import PATH, is_replay

pytestmark = pytest.mark.django_db(transaction=True)  # an async view commits

KEY = {"Idempotency-Key": "key-1"}
PAY = "mutation Pay($amount: Int!) { pay(amount: $amount) }"
COUNT = "query Count { count }"
BROKEN = "mutation { pay(amount: 1) other: refuse }"


def count() -> int:
    return Payment.objects.count()


def pay(amount: int) -> int:
    return Payment.objects.create(amount=amount, reference="graphql").pk


def refuse() -> int:
    raise ValueError("no")


@strawberry.type
class Query:
    count: int = strawberry.field(resolver=count)


@strawberry.type
class Mutation:
    pay: int = strawberry.mutation(resolver=pay)
    refuse: int | None = strawberry.mutation(resolver=refuse)


@strawberry.type
class AsyncQuery:
    count: int = strawberry.field(resolver=sync_to_async(count))


@strawberry.type
class AsyncMutation:
    pay: int = strawberry.mutation(resolver=sync_to_async(pay))
    refuse: int | None = strawberry.mutation(resolver=sync_to_async(refuse))


class GrapheneQuery(graphene.ObjectType):
    count = graphene.Int()

    def resolve_count(self, info):
        return count()


class Pay(graphene.Mutation):
    class Arguments:
        amount = graphene.Int(required=True)

    Output = graphene.Int

    def mutate(self, info, amount):
        return pay(amount)


class Refuse(graphene.Mutation):
    Output = graphene.Int

    def mutate(self, info):
        return refuse()


class GrapheneMutation(graphene.ObjectType):
    pay = Pay.Field()
    refuse = Refuse.Field()


def of_strawberry(view, query, mutation):
    def make(batch):
        config = StrawberryConfig(batching_config={"max_operations": 3} if batch else None)
        return view.as_view(schema=strawberry.Schema(query, mutation, config=config), multipart_uploads_enabled=True)

    return make


VIEWS = {
    "strawberry": of_strawberry(StrawberryView, Query, Mutation),
    "strawberry, async": of_strawberry(AsyncStrawberryView, AsyncQuery, AsyncMutation),
    "graphene": lambda batch: GrapheneView.as_view(
        schema=graphene.Schema(GrapheneQuery, GrapheneMutation), batch=batch
    ),
}


@pytest.fixture(params=VIEWS)
def library(request):
    return request.param


@pytest.fixture
def graphql(library, serve, client):
    """Serve the library's view, protected, and send it an operation."""

    def graphql(batch=False, **options):
        options = {"required": True, "key": keys.graphql, "should_store": outcomes.graphql} | options
        serve(csrf_exempt(idempotent(**options)(VIEWS[library](batch))))

        def send(query, headers=KEY, **more):
            sent = query if isinstance(query, (dict, list)) else {"query": query, **more}
            return client.post(PATH, json.dumps(sent), content_type="application/json", headers=headers)

        return send

    return graphql


def test_a_mutation_takes_effect_once(graphql):
    send = graphql()
    sent = {"query": PAY, "variables": {"amount": 5}}

    first, second = send(sent), send(sent)

    assert (first.status_code, is_replay(first), is_replay(second)) == (200, False, True)
    assert first.json()["data"] == {"pay": Payment.objects.get().pk}
    assert second.content == first.content
    assert send({**sent, "variables": {"amount": 6}}).status_code == 422


def test_a_mutation_with_errors_is_rolled_back(graphql):
    """Also what it has done before the error, although it answers with data."""
    send = graphql()

    answers = [send(BROKEN) for _ in range(2)]

    assert [(answer.status_code, is_replay(answer)) for answer in answers] == [(200, False)] * 2
    assert answers[0].json()["errors"]
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()
    assert send(PAY, variables={"amount": 1}).json()["data"]


@pytest.mark.parametrize("headers", [{}, KEY], ids=["without a key", "with a key"])
def test_a_query_passes_through(graphql, headers):
    """Although a key is required. What it has found is not stored, so it is found anew."""
    send = graphql()

    answers = [send(COUNT, headers)]
    pay(1)
    answers.append(send(COUNT, headers))

    assert [answer.json()["data"]["count"] for answer in answers] == [0, 1]
    assert not IdempotencyRecord.objects.exists()


def test_the_operation_that_is_named_counts(graphql):
    send = graphql()
    both = {"query": f"{PAY} {COUNT}", "variables": {"amount": 5}}

    assert send({**both, "operationName": "Count"}, {}).json()["data"] == {"count": 0}
    assert send({**both, "operationName": "Pay"}, {}).json()["code"] == "key-missing"


@pytest.mark.parametrize("place", ["extensions", "variables"])
def test_the_key_may_be_in_the_operation(graphql, place):
    send = graphql()
    sent = {"query": PAY, "variables": {"amount": 5}}
    sent.setdefault(place, {})["idempotencyKey"] = "key-2"

    answers = [send(sent, {}) for _ in range(2)]

    assert [is_replay(answer) for answer in answers] == [False, True]
    assert IdempotencyRecord.objects.get().key == "key-2"


def test_the_key_of_a_header_is_quoted_or_not(graphql):
    send = graphql()

    answers = [send(PAY, {"Idempotency-Key": key}, variables={"amount": 5}) for key in ("key-1", '"key-1"')]

    assert [is_replay(answer) for answer in answers] == [False, True]


@pytest.mark.parametrize(
    ("headers", "extensions"),
    [({"Idempotency-Key": '"a'}, {}), ({}, {"idempotencyKey": 7}), ({}, {"idempotencyKey": ""})],
)
def test_a_malformed_key_is_refused(graphql, headers, extensions):
    refused = graphql()(PAY, headers, variables={"amount": 5}, extensions=extensions)

    assert (refused.status_code, refused.json()["code"]) == (400, "key-invalid")
    assert not Payment.objects.exists()


def test_a_mutation_without_a_key_is_refused(graphql):
    refused = graphql()(PAY, {}, variables={"amount": 5})

    assert (refused.status_code, refused.json()["code"]) == (400, "key-missing")
    assert "extension idempotencyKey" in refused.json()["detail"]


@pytest.mark.parametrize("is_broken", [False, True], ids=["done", "broken"])
def test_a_batch_is_one_operation(graphql, is_broken):
    """One error rolls all of it back."""
    send = graphql(batch=True)
    pays = {"query": PAY, "variables": {"amount": 5}, "extensions": {"idempotencyKey": "key-3"}}

    answers = [send([{"query": COUNT}, pays, {"query": BROKEN} if is_broken else pays], {}) for _ in range(2)]

    assert [is_replay(answer) for answer in answers] == [False, not is_broken]
    assert Payment.objects.count() == (0 if is_broken else 2)


def test_what_cannot_be_read_is_left_to_the_library(graphql, client):
    graphql()

    answer = client.post(PATH, "{", content_type="application/json")

    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0] != "application/problem+json") == (
        400,
        True,
    )


def test_a_form_is_read_too(graphql, library, client):
    """graphene reads the fields of a form, and Strawberry those of the multipart specification."""
    graphql()
    variables = {"amount": 5, "idempotencyKey": "key-4"}
    sent = {
        "graphene": {"query": PAY, "variables": json.dumps(variables)},
        "strawberry": {"operations": json.dumps({"query": PAY, "variables": variables}), "map": "{}"},
    }[library.partition(",")[0]]

    answers = [client.post(PATH, sent) for _ in range(2)]

    assert [(answer.status_code, is_replay(answer)) for answer in answers] == [(200, False), (200, True)]
    assert Payment.objects.count() == 1


def test_a_result_that_is_no_response_is_told(serve, client):
    """The error names the library, and the page that helps."""
    schema = strawberry.Schema(Query, Mutation)
    serve(csrf_exempt(idempotent(lambda request: schema.execute_sync(COUNT))))

    with pytest.raises(UnstorableResponse, match=r"Strawberry makes a response .*protect-graphql"):
        client.post(PATH, headers=KEY)
