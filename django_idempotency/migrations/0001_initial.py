from django.db import migrations, models

import django_idempotency.fields


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="IdempotencyRecord",
            fields=[
                (
                    "digest",
                    django_idempotency.fields.DigestField(
                        max_length=32, primary_key=True, serialize=False, verbose_name="identity"
                    ),
                ),
                ("scope", models.CharField(max_length=255, verbose_name="scope")),
                ("operation", models.CharField(max_length=255, verbose_name="operation")),
                ("key", django_idempotency.fields.KeyField(max_length=255, verbose_name="idempotency key")),
                ("fingerprint", django_idempotency.fields.DigestField(max_length=32, verbose_name="fingerprint")),
                ("request", models.CharField(blank=True, default="", max_length=255, verbose_name="request")),
                ("request_id", models.CharField(blank=True, default="", max_length=255, verbose_name="request id")),
                ("status", models.PositiveSmallIntegerField(default=0, verbose_name="status")),
                ("head", models.BinaryField(default=b"", verbose_name="reason and headers")),
                ("body", models.BinaryField(default=b"", verbose_name="body")),
                ("executed_at", models.DateTimeField(verbose_name="executed at")),
                ("expires_at", models.DateTimeField(verbose_name="expires at")),
            ],
            options={
                "verbose_name": "idempotency record",
                "verbose_name_plural": "idempotency records",
                "default_permissions": ("view",),
                "permissions": (
                    ("view_stored_response", "Can view stored responses"),
                    ("free_key", "Can free an idempotency key"),
                    ("settle_outcome", "Can settle an unknown outcome"),
                ),
                "db_table": "django_idempotency_record",
                "indexes": [
                    models.Index(fields=["key"], name="idempotency_record_key"),
                    models.Index(fields=["expires_at"], name="idempotency_record_expires"),
                ],
            },
        ),
    ]
