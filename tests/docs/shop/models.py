from django.conf import settings
from django.db import models


class Payment(models.Model):
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True)
    amount = models.IntegerField()
    refunded = models.BooleanField(default=False)


class Invoice(models.Model):
    number = models.CharField(max_length=32, unique=True)
    paid = models.BooleanField(default=False)
