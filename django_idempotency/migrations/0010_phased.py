from django.db import migrations, models

import django_idempotency.fields


class Migration(migrations.Migration):
    dependencies = [
        ("django_idempotency", "0009_uncertain_ttl"),
    ]

    operations = [
        migrations.CreateModel(
            name="PhasedRun",
            fields=[
                (
                    "digest",
                    django_idempotency.fields.DigestField(
                        max_length=32, primary_key=True, serialize=False, verbose_name="identity"
                    ),
                ),
                ("executed_at", models.DateTimeField(verbose_name="executed at")),
                ("token", models.BigIntegerField()),
                ("ends_at", models.DateTimeField(verbose_name="lease ends at")),
                ("attempts", models.PositiveIntegerField(default=1, verbose_name="attempts")),
                ("doubt", models.PositiveSmallIntegerField(default=0, verbose_name="doubt")),
                (
                    "phase",
                    django_idempotency.fields.Utf8Field(blank=True, default="", max_length=255, verbose_name="phase"),
                ),
                (
                    "error",
                    django_idempotency.fields.Utf8Field(
                        blank=True, default="", max_length=255, verbose_name="last error"
                    ),
                ),
                ("resume_at", models.DateTimeField(verbose_name="resume not before")),
                ("resume_until", models.DateTimeField(verbose_name="resume until")),
                ("sent", models.BinaryField(default=b"", verbose_name="request as it was sent")),
            ],
            options={
                "verbose_name": "run in phases",
                "verbose_name_plural": "runs in phases",
                "db_table": "django_idempotency_run",
                "default_permissions": (),
            },
        ),
    ]
