from django.db import migrations, models

import django_idempotency.fields


class Migration(migrations.Migration):
    dependencies = [
        ("django_idempotency", "0002_claim_function"),
    ]

    operations = [
        migrations.CreateModel(
            name="DecisionCount",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "hour", "operation", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "hour",
                    models.PositiveIntegerField(help_text="Hours since 1970-01-01 00:00 UTC.", verbose_name="hour"),
                ),
                ("operation", django_idempotency.fields.ExactField(max_length=255, verbose_name="operation")),
                ("executions", models.BigIntegerField(default=0, verbose_name="executions")),
                ("replays", models.BigIntegerField(default=0, verbose_name="replays")),
                ("conflicts", models.BigIntegerField(default=0, verbose_name="conflicts")),
                ("mismatches", models.BigIntegerField(default=0, verbose_name="mismatches")),
                ("unknown_outcomes", models.BigIntegerField(default=0, verbose_name="unknown outcomes")),
                ("unavailable", models.BigIntegerField(default=0, verbose_name="store unavailable")),
                ("other_refusals", models.BigIntegerField(default=0, verbose_name="other refusals")),
                ("forgotten", models.BigIntegerField(default=0, verbose_name="forgotten")),
                ("unsettled", models.BigIntegerField(default=0, verbose_name="unsettled")),
            ],
            options={
                "verbose_name": "count of decisions",
                "verbose_name_plural": "counts of decisions",
                "db_table": "django_idempotency_count",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="StorageSample",
            fields=[
                (
                    "hour",
                    models.PositiveIntegerField(
                        help_text="Hours since 1970-01-01 00:00 UTC.",
                        primary_key=True,
                        serialize=False,
                        verbose_name="hour",
                    ),
                ),
                ("records", models.BigIntegerField(verbose_name="stored records")),
                ("size", models.BigIntegerField(null=True, verbose_name="size in bytes")),
            ],
            options={
                "verbose_name": "sample of storage",
                "verbose_name_plural": "samples of storage",
                "db_table": "django_idempotency_storage",
                "default_permissions": ("view",),
            },
        ),
    ]
