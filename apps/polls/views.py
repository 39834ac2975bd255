"""The pages: open questions, a vote, results; and the static files, the admin's included.

A browser votes once per question, which its session remembers. Static files come straight from
the installed packages: no collectstatic step, nothing to write, and any prefix will do.
"""

from pathlib import Path

import django.contrib.admin
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import F
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import cache_control
from django.views.static import serve

from polls.models import Choice, Question

STATIC_ROOTS = {
    "admin": Path(django.contrib.admin.__file__).parent / "static" / "admin",
    "polls": Path(__file__).parent / "static",
}


def index(request):
    return render(request, "polls/index.html", {"questions": Question.objects.with_votes()[:100]})


def question(request, question_id):
    asked = get_object_or_404(Question, pk=question_id)
    voted = request.session.get("voted", {})
    if not asked.is_open or str(question_id) in voted:
        return redirect("results", question_id)
    choices = {str(choice.pk): choice for choice in asked.choices.all()}
    context = {"question": asked, "choices": choices.values()}
    if request.method != "POST":
        return render(request, "polls/question.html", context)
    chosen = choices.get(request.POST.get("choice"))
    if chosen is None:
        context["problem"] = "Choose one of the answers, then vote."
        return render(request, "polls/question.html", context, status=400)
    # Counted by the database in one statement: workers vote at the same time.
    Choice.objects.filter(pk=chosen.pk).update(votes=F("votes") + 1)
    request.session["voted"] = {**voted, str(question_id): chosen.pk}
    return redirect("results", question_id)


def results(request, question_id):
    asked = get_object_or_404(Question, pk=question_id)
    choices = list(asked.choices.all())
    total = sum(choice.votes for choice in choices)
    for choice in choices:
        choice.percent = round(100 * choice.votes / total) if total else 0
    mine = request.session.get("voted", {}).get(str(question_id))
    context = {"question": asked, "choices": choices, "total": total, "mine": mine}
    return render(request, "polls/results.html", context)


@cache_control(public=True, max_age=3600)
def static_file(request, path):
    owner, _, name = path.partition("/")
    if owner not in STATIC_ROOTS:
        raise Http404
    return serve(request, name, STATIC_ROOTS[owner])


def admin_login(request):
    """Django's own login page, which says how to make the first user while there is none."""
    first_time = not get_user_model().objects.exists()
    return admin.site.login(request, {"first_time": first_time})
