from django.db import migrations, models

import django_idempotency.fields


class Migration(migrations.Migration):
    dependencies = [
        ("django_idempotency", "0006_ignored_keys"),
    ]

    operations = [
        migrations.CreateModel(
            name="AnswerEnd",
            fields=[
                (
                    "digest",
                    django_idempotency.fields.DigestField(
                        max_length=32, primary_key=True, serialize=False, verbose_name="identity"
                    ),
                ),
                ("executed_at", models.DateTimeField(verbose_name="executed at")),
                ("ends_at", models.DateTimeField(verbose_name="answer ends at")),
            ],
            options={
                "verbose_name": "end of an answer",
                "verbose_name_plural": "ends of answers",
                "db_table": "django_idempotency_answer_end",
                "default_permissions": (),
                "indexes": [models.Index(fields=["ends_at"], name="idempotency_answer_ends")],
            },
        ),
    ]
