FROM python:3.13-slim AS packages
WORKDIR /service
COPY requirements.txt .
RUN python -m venv --without-pip .venv && \
    python -m pip --python .venv install --no-cache-dir --quiet -r requirements.txt

FROM python:3.13-slim
WORKDIR /service
COPY --from=packages /service/.venv .venv
COPY gunicorn.conf.py wsgi.py ./
COPY proxy proxy
# The service must not write into its folder, so its bytecode is part of the image.
RUN .venv/bin/python -m compileall -q proxy wsgi.py
# /dev/shm is writable in every container, also with a read-only root file system. gunicorn writes its heartbeats there.
ENV PATH=/service/.venv/bin:$PATH TMPDIR=/dev/shm PORT=8000
EXPOSE 8000
# A number, so that Kubernetes can verify that the user is not root.
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python", "-c", "\
import http.client, os, sys; \
connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); \
connection.request('GET', '/healthz'); \
sys.exit(connection.getresponse().status != 200)"]
CMD ["gunicorn", "wsgi:app"]
