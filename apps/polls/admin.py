"""The admin: questions, with their choices on the same page."""

from django.contrib import admin

from polls.models import Choice, Question

admin.site.site_header = admin.site.site_title = "Polls"
admin.site.index_title = "Administration"


class ChoiceInline(admin.TabularInline):
    model = Choice
    extra = 2
    readonly_fields = ["votes"]


@admin.register(Question)
class QuestionAdmin(admin.ModelAdmin):
    list_display = ["text", "is_open", "votes", "created"]
    list_filter = ["is_open"]
    search_fields = ["text"]
    inlines = [ChoiceInline]

    def get_queryset(self, request):
        return super().get_queryset(request).with_votes()

    @admin.display(ordering="votes")
    def votes(self, question):
        return question.votes or 0
