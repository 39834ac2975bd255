"""Two questions, so that the first visitor finds something to vote on."""

from django.db import migrations

QUESTIONS = [
    (
        "How do you run your Python apps today?",
        "On the box that matters most to you.",
        [
            "A container each",
            "systemd and a reverse proxy",
            "A hosted platform",
            "All in one gateway",
        ],
    ),
    ("Tea or coffee?", "", ["Tea", "Coffee", "Both", "Water is fine"]),
]


def add_questions(apps, schema_editor):
    Question = apps.get_model("polls", "Question")
    for text, detail, choices in reversed(QUESTIONS):
        question = Question.objects.create(text=text, detail=detail)
        for choice in choices:
            question.choices.create(text=choice)


class Migration(migrations.Migration):
    dependencies = [("polls", "0001_initial")]
    operations = [migrations.RunPython(add_questions, migrations.RunPython.noop)]
