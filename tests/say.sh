# shellcheck shell=bash
# What the shell tests say, and how they end. Sourced by them.

# What comes next, and how long it took to get there.
step() {
    printf '\n--- %s (%d s)\n' "$*" "$SECONDS"
}

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# Not possible here: exit code 75, as in `.ci/run`.
skip() {
    echo "SKIPPED: $*"
    exit 75
}
