#!/bin/sh
# Makes the bucket `releases` and the user the gateways work as, who may do what policy.json says and nothing else.
#
# Runs at every start of the stack and leaves alone what is there, but for the user's secret: that is set again, so that
# a changed one takes effect. Needs MINIO_URL, MINIO_ROOT_USER, MINIO_ROOT_PASSWORD, USER_ID and USER_SECRET.

set -eu

# Secrets go through standard input: a command line can be read by every user of the machine.
printf '%s\n%s\n' "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" | mc --quiet alias set store "$MINIO_URL"
mc --quiet mb --ignore-existing store/releases
mc --quiet admin policy create store release-server /policy.json
printf '%s\n%s\n' "$USER_ID" "$USER_SECRET" | mc --quiet admin user add store

# Attaching what is attached is an error.
if ! mc --json admin user info store "$USER_ID" | grep -q '"policyName": *"release-server"'; then
    mc --quiet admin policy attach store release-server --user "$USER_ID"
fi
