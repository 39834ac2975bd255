"""Which view answers which path below the prefix."""

from django.contrib import admin
from django.urls import path

from polls import views

urlpatterns = [
    path("", views.index, name="index"),
    path("<int:question_id>/", views.question, name="question"),
    path("<int:question_id>/results/", views.results, name="results"),
    path("static/<path:path>", views.static_file),
    path("admin/login/", views.admin_login),
    path("admin/", admin.site.urls),
]
