# Checks and measures everything on a GPU, and writes a report named for it:
#   docker build -t zo_triton .
#   docker run --rm --gpus all -v "$PWD/reports:/zo_triton/reports" zo_triton
FROM python:3.12-slim
# Triton compiles its launchers with the system's compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /zo_triton
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY zo_triton zo_triton
RUN pip install --no-cache-dir -c constraints.txt -e '.[suite]'
COPY . .
CMD ["python", "-m", "benchmarks", "gpu"]
