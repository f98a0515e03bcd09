from django.db import models


class Payment(models.Model):
    """The effect that must happen once."""

    amount = models.IntegerField()
    reference = models.CharField(max_length=40, default="", unique=False)

    class Meta:
        app_label = "app"


class Unique(models.Model):
    """For handlers that break a constraint."""

    name = models.CharField(max_length=40, unique=True)


class Child(models.Model):
    """A deferred constraint: its parent is looked for at COMMIT."""

    payment = models.ForeignKey(Payment, on_delete=models.CASCADE)
