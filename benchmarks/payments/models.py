from django.db import models


class Payment(models.Model):
    amount = models.PositiveIntegerField()
    currency = models.CharField(max_length=3, default="EUR")
    reference = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "payments"

    def __str__(self) -> str:
        return self.reference
