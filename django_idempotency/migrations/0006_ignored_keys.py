from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("django_idempotency", "0005_utf8mb4"),
    ]

    operations = [
        migrations.AddField(
            model_name="decisioncount",
            name="ignored",
            field=models.BigIntegerField(db_default=0, default=0, verbose_name="ignored keys"),
        ),
    ]
