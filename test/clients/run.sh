#!/usr/bin/env bash
# Runs unmodified clients against an akidbd: OpenAI's Python and Node libraries and grpcurl.
#
#   test/clients/run.sh http://127.0.0.1:8080
#
# It needs python3, node, npm and go; the clients, pinned, are installed once into
# ${AKIDB_CACHE:-$HOME/.cache/akidbd}/clients. The last line is "N passed, M failed"; the exit status is 0
# only if M is 0 and N is not. Environment:
#
#   AKIDB_MODEL    model to ask for; default: the first of GET /v1/models
#   AKIDB_API_KEY  a valid key, where the server asks for one; wrong keys are then tried, too
#   AKIDB_FAULTS   1: the server answers the models fault-overloaded, fault-unavailable, fault-deadline and
#                  fault-internal with that error, as the test server of internal/api does
set -euo pipefail

OPENAI_PYTHON=3.54.0
OPENAI_NODE=6.49.0
GRPCURL=v1.9.3

url=${1:?usage: run.sh URL}
url=${url%/}
here=$(cd "$(dirname "$0")" && pwd)
cache=${AKIDB_CACHE:-$HOME/.cache/akidbd}/clients
python=$cache/python-$OPENAI_PYTHON
node=$cache/node-$OPENAI_NODE
grpcurl=$cache/grpcurl-$GRPCURL

# install DIR COMMAND...: runs COMMAND in DIR unless it was done before.
install() {
    local dir=$1
    shift
    [ -e "$dir/done" ] && return
    echo "installing $dir" >&2
    rm -rf "$dir"
    mkdir -p "$dir"
    (cd "$dir" && "$@") >&2
    touch "$dir/done"
}
install_python() { python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check "openai==$OPENAI_PYTHON"; }
install_node() { npm install --silent --no-audit --no-fund "openai@$OPENAI_NODE"; }
install_grpcurl() { GOBIN=$PWD GOFLAGS= go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL"; }
install "$python" install_python
install "$node" install_node
install "$grpcurl" install_grpcurl

results=$(mktemp)
trap 'rm -f "$results"' EXIT
export AKIDB_URL=$url

# client COMMAND...: runs one client's checks; one that dies counts as a failure.
client() {
    "$@" 2>&1 | tee -a "$results" || echo "FAIL $1 ended with an error" | tee -a "$results"
}
client "$python/venv/bin/python" "$here/openai_client.py"
client env AKIDB_NODE_MODULES="$node/" node "$here/openai_client.mjs"
client env GRPCURL="$grpcurl/grpcurl" bash "$here/grpcurl_client.sh"

passed=$(grep -c '^ok ' "$results" || true)
failed=$(grep -c '^FAIL ' "$results" || true)
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
