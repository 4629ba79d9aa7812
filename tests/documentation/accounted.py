"""What the documentation's commands meet in the tests that a reader does not: each with its reason."""

from __future__ import annotations

from typing import Any

# What is changed in the sandbox's copies of the jobs: small images, a small U-Net, few steps.
CIRCLES = {"examples": 160, "size": 60, "radius": [3, 9]}
SHORTER: dict[str, dict[str, Any]] = {
    "circles.yaml": {
        "data": {"train": CIRCLES, "validation": {**CIRCLES, "examples": 4}},
        "model": {"layers": 2, "features": 4},
        "train": {"epochs": 2},
    },
    "membrane.yaml": {
        "data": {"train": {"crop": [60, 60]}},
        "model": {"layers": 2, "features": 4},
        "train": {"epochs": 1},
    },
}

# Programs for which no machine that tests has the other side, and why; stand_in.py says what it does of each instead.
STAND_INS = {
    "docker": "needs an engine, and an image that takes minutes to build: looks at the arguments and at what they name",
    "kubectl": "needs a cluster: kustomize is the real one's; of others the real one must miss nothing but the server",
    "sbatch": "needs a Slurm cluster (make cluster-test makes one): looks at script, job and options",
    "scancel": "as sbatch",
    "ssh": "needs other hosts: every host is this machine",
}


# Commands that no test runs, and why.
NOT_HERE = {
    "make test": "is what runs these tests",
    "make check": "make test has run it before these tests",
    "make format": "writes into the sources, which the sandbox only links to",
    "python3 docker/horovod/build.py --gpu": "half an hour; tests/docker/test_gpu_build.py has it",
    "python3 docker/environment.py --group gpu --venv DIR": (
        "10 GB of packages; tests/docker/test_gpu_build.py has it"
    ),
    "DIR/bin/distrain check": "of the environment before it",
    "python3 docker/environment.py --extras": (
        "would change the environment of the tests; tests/docker/test_extras.py makes one of its own"
    ),
}

# Commands that only `make soak` runs, and why.
LONG = {
    "distrain launch -n 2 --controller mpi -- train launch/jobs/circles.yaml --run-dir runs/mpi": (
        "tests/processes/test_ways.py starts by it, and compares what comes out"
    ),
    "distrain check": "20 s of two cores; launch/local.sh begins with it",
    "distrain launch -n 2 -- train launch/jobs/circles.yaml --run-dir runs/two": "what make train runs, too",
    "distrain launch -n 2 --restarts 5 -- train launch/jobs/circles.yaml --run-dir runs/restarts": (
        "tests/faults/test_faults.py has restarts"
    ),
    "horovodrun -np 2 python -m distrain train launch/jobs/circles.yaml --run-dir runs/gloo": (
        "what distrain launch runs, too"
    ),
    "horovodrun --mpi -np 2 python -m distrain train launch/jobs/circles.yaml --run-dir runs/horovodrun": (
        "tests/processes/test_ways.py has it"
    ),
    "mpirun -np 2 python -m distrain train launch/jobs/circles.yaml --run-dir runs/mpirun": (
        "tests/processes/test_ways.py has it"
    ),
    "distrain launch --hostfile launch/hosts.example --controller mpi -- train launch/jobs/circles.yaml"
    " --run-dir runs/hostfile": "20 s; the README's --hosts goes by ssh, too",
    "distrain train launch/jobs/circles.yaml -o data.train='{provider: tfrecords, files: packed}'"
    " --run-dir runs/packed": ("tests/processes/test_data.py trains by every provider"),
    "distrain evaluate runs/circles --checkpoint newest --json": "tests/processes/test_after.py has it",
    "distrain evaluate runs/membrane"
    " -o 'data.validation={provider: image_pairs, images: NEW/image, labels: NEW/label}'": (
        "tests/processes/test_after.py has it"
    ),
    "distrain inspect runs/circles --gradients --plot docs/gradient-statistics.png": "as the page's other --plot",
    "distrain launch -n 2 -- evaluate runs/circles": "tests/processes/test_after.py has it",
    "distrain launch -n 2 -- predict runs/membrane IMAGES OUTPUT": "tests/processes/test_after.py has it",
    "distrain predict runs/membrane 'IMAGES/{00..09}.png' OUTPUT --probabilities --window 2048": (
        "tests/processes/test_after.py has it"
    ),
    "launch/local.sh": "half a minute; README's commands train, stop and go on, too",
    "distrain bench": "minutes; tests/processes/test_bench.py has a short one",
    "distrain bench launch/jobs/circles.yaml -n 4": "minutes, of four workers",
    "distrain bench --controller mpi --only allreduce --json figures.json --plot figures.png": "a minute",
    "distrain launch -n 2 -- train launch/jobs/circles.yaml --run-dir runs/served -o log.serve=9464": (
        "its port may be another's; tests/processes/test_live.py asks a free one"
    ),
    "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 distrain launch -n 2 -- train launch/jobs/circles.yaml"
    " --run-dir runs/told -o log.mlflow={}": "half a minute; tests/log/test_tracking.py tells a service that is away",
    "WANDB_MODE=offline distrain launch -n 2 -- train launch/jobs/circles.yaml"
    " --run-dir runs/kept -o log.wandb.project=circles": "half a minute; tests/log/test_tracking.py has it offline",
    "distrain launch -n 2 --elastic 1:4 --discover ./hosts.sh -- elastic_digits.py": (
        "half a minute; tests/processes/test_keras.py has an elastic program that loses workers"
    ),
}
