"""A question and its choices."""

from django.db import models
from django.db.models import Sum


class QuestionQuerySet(models.QuerySet):
    def with_votes(self):
        """The newest first, each with ``votes``, the sum over its choices (None without any)."""
        # A query that sums ignores Meta.ordering, so it is said again.
        return self.annotate(votes=Sum("choices__votes")).order_by("-created", "-id")


class Question(models.Model):
    text = models.CharField(max_length=200)
    detail = models.CharField(max_length=300, blank=True)
    is_open = models.BooleanField(default=True, help_text="A closed question only shows results.")
    created = models.DateTimeField(auto_now_add=True)

    objects = QuestionQuerySet.as_manager()

    class Meta:
        ordering = ["-created", "-id"]

    def __str__(self):
        return self.text


class Choice(models.Model):
    question = models.ForeignKey(Question, models.CASCADE, related_name="choices")
    text = models.CharField(max_length=100)
    votes = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["id"]

    def __str__(self):
        return self.text
