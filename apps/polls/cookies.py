"""Cookies that other mounts of the same host never see, and that are Secure when the request is.

Django's own settings for both are fixed at start; the prefix and the scheme belong to a request.
"""


def scope_cookies(get_response):
    def middleware(request):
        response = get_response(request)
        for cookie in response.cookies.values():
            cookie["path"] = request.META["SCRIPT_NAME"] or "/"
            cookie["secure"] = request.is_secure()
        return response

    return middleware
