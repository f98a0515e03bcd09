"""`manage.py seed`: somebody to log in as, and something to spend."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction
from rest_framework.authtoken.models import Token

from sample_project.payments.models import Account, Currency

USAGE = """\
{username} has the password {password!r} and these accounts:
{accounts}

Log in at {base}/api-auth/login/ and look around at {base}/api/, read of it at {base}/api/docs/, or call it:

  TOKEN={token}
  curl -i {base}/api/accounts/{account}/charges/ \\
    -H "Authorization: Token $TOKEN" -H 'Idempotency-Key: "order-1001"' \\
    -H 'Content-Type: application/json' \\
    -d '{{"amount": 1250, "currency": "EUR", "reference": "order 1001"}}'

The receipt is a task, which a worker mails (to its own output): python manage.py db_worker

Or pay by a form, and click twice: {base}/pay/

Send the request again: the same answer, `Idempotency-Replayed: true`, and the balance moves once:

  curl {base}/api/accounts/{account}/ -H "Authorization: Token $TOKEN"

Charge a card at the gateway (503 where none runs). tok_declined and tok_slow are cards, too:

  curl -i {base}/api/accounts/{account}/card-payments/ \\
    -H "Authorization: Token $TOKEN" -H 'Idempotency-Key: "top-up-1"' \\
    -H 'Content-Type: application/json' \\
    -d '{{"amount": 5000, "currency": "EUR", "card": "tok_visa", "reference": "top-up 1"}}'
"""


class Command(BaseCommand):
    help = "Creates a user with a token and two accounts; run again, it changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", default="demo")
        parser.add_argument("--password", default="sample-password")
        parser.add_argument("--email", default="demo@example.com", help="for receipts")
        parser.add_argument("--balance", type=int, default=100_000, help="of each account, in minor units")
        parser.add_argument("--staff", action="store_true", help="may use the admin, and look at any account")
        parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="for the printed examples")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        user, created = get_user_model().objects.get_or_create(
            username=options["username"],
            defaults={"email": options["email"], "is_staff": options["staff"], "is_superuser": options["staff"]},
        )
        if created:
            user.set_password(options["password"])
            user.save()
        token, _ = Token.objects.get_or_create(user=user)
        accounts = [
            Account.objects.get_or_create(
                owner=user, name=name, defaults={"currency": Currency.EUR, "balance": options["balance"]}
            )[0]
            for name in ("Current", "Savings")
        ]
        self.stdout.write(
            USAGE.format(
                username=user.get_username(),
                password=options["password"],
                accounts="\n".join(f"  {each.pk}  {each.name}: {each.balance} cents" for each in accounts),
                account=accounts[0].pk,
                token=token.key,
                base=options["base_url"],
            )
        )
