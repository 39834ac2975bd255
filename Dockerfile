# The gateway with its packages and those of apps/requirements.txt. The table and the apps are
# mounted at /srv/apps, not copied, so edits need no build. The base image can be any Debian with
# Python 3.11 or newer.
ARG PYTHON_IMAGE=python:3.13-slim
FROM ${PYTHON_IMAGE}

# No bytecode is written at run time: the root file system is read-only, and another cache directory
# (PYTHONPYCACHEPREFIX) would hide the bytecode that pip compiles here.
ENV PATH=/opt/venv/bin:$PATH \
    GATEWAY_DATA=/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# The user name is for apps that look it up; the image uses the id 10001.
RUN echo 'gateway:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'gateway:x:10001:' >> /etc/group \
 && install -d -o 10001 -g 10001 /data \
 && install -d -o 10001 -g 10001 -m 0700 /run/gateway \
 && install -d -o 10001 -g 10001 -m 2755 /run/http

# A virtual environment, since Python of a distribution is externally managed (PEP 668). The base
# image's pip installs into it, so it needs none itself.
COPY requirements.lock /opt/gateway/
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --quiet --root-user-action ignore \
    --only-binary :all: --require-hashes --requirement /opt/gateway/requirements.lock

COPY apps/requirements.txt /opt/gateway/apps/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet --root-user-action ignore \
    --requirement /opt/gateway/apps/requirements.txt

COPY deploy/link.py /opt/gateway/deploy/
COPY gateway /opt/gateway/gateway
# File modes in a checkout depend on the umask: make all files readable for the gateway's user.
RUN python -m compileall -q /opt/gateway/gateway && python /opt/gateway/deploy/link.py /opt/gateway \
 && chmod -R a+rX /opt/gateway

USER 10001:10001
WORKDIR /srv
STOPSIGNAL SIGTERM

# Readiness, not just liveness. In bash, which costs a tenth of Python. The start period is three times
# the default start_timeout; the first success ends it. The interval is short because engines before
# version 25 use it during the start period, too. Ten failures, since the machine may be busy.
HEALTHCHECK --interval=2s --timeout=10s --start-period=3m --retries=10 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8001 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 9 _ status _ <&3 && [ \"$status\" = 200 ]"]

# Listens on a socket in a volume that nginx shares, in a directory of nginx's group. Only nginx,
# identified by its user, is trusted, not other containers or processes of apps.
CMD ["gateway", "serve", "-c", "/srv/apps/mounts.yaml", "--listen", "unix:/run/http/gateway.sock", "--trust", "unix:10002"]
