# Shortcuts. `.ci/run` is the gate and does the work.

_default:
    @{{ just_executable() }} --list

# everything the pipeline checks
check:
    .ci/run

# format the code
fmt:
    cargo fmt

# format, clippy, docs, shell scripts, licences
lint:
    .ci/run format clippy docs shellcheck licences

# the tests that need nothing but Rust and Python
test *args:
    cargo test --locked {{ args }}

# made-up input for the parsers that strangers reach: `just fuzz 600 router` for ten minutes of one; needs cargo-fuzz
fuzz seconds='60' *targets:
    fuzz/run.py --seconds {{ seconds }} {{ targets }}

# a server on a directory killed, cut off from power and refused by its disk at every system call: a quarter of an hour
crash-matrix *args:
    RELEASE_SERVER_TEST_ROUNDS=40 cargo test --locked --test disk -- --test-threads 2 {{ args }}

# every order of the steps by which a listing of a large bucket is proved to hold; `--show` has the counterexamples
model *args:
    tests/model/changes.py {{ args }}

# the page in a headless browser
browser-test:
    .ci/run browser

# every fault at every request that an operation makes of a bucket, exhaustively; `just prove faults` takes a sample of it
faults:
    RELEASE_SERVER_TEST_ROUNDS=32 cargo test --locked --test s3 matrix -- --nocapture

# publish and download with real clients of GitHub: `just clients --minio PATH`
clients *args:
    tests/clients/run {{ args }}

# measure the speed, run the attacks, print both tables: `just prove [speed|faults|PART] [--quick] [--write]`
prove *args:
    benches/prove.py {{ args }}

# what the server computes, without network and disk
bench *args:
    cargo bench --locked --bench pure {{ args }}

# the whole stack of docker-compose.yml; needs Docker
compose-test:
    tests/compose.sh

# a real Prometheus scrapes a server under load; every query of the dashboard has data
prometheus-test:
    tests/prometheus.sh

# the chart on whatever cluster KUBECONFIG names; tests/cluster.py says what it takes
cluster-test *args:
    tests/cluster.py {{ args }}
