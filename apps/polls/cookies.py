"""Cookies that are Secure when the request is.

Django's own setting is fixed at start; the scheme belongs to a request.
"""


def secure_cookies(get_response):
    def middleware(request):
        response = get_response(request)
        for cookie in response.cookies.values():
            cookie["secure"] = request.is_secure()
        return response

    return middleware
