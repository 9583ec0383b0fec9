# An environment for the two commands of the README: `make run` (the default) and `make test`.
# The image holds what is committed, and no other weights, data or results (see .dockerignore).
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --shell /bin/bash irudimen
USER irudimen
# In the home folder, which still belongs to the user if a development container renumbers it.
ENV VENV=/home/irudimen/venv
RUN mkdir /home/irudimen/repository
WORKDIR /home/irudimen/repository

# The environment is a layer of its own: changed code does not install it again.
COPY --chown=irudimen Makefile requirements.lock ./
COPY --chown=irudimen tools tools
RUN make env

COPY --chown=irudimen .git .git
RUN git reset --hard --quiet

CMD ["make", "run"]
