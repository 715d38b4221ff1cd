#!/bin/sh
# Generates the Go code of every .proto file under internal/gen. Its tools are installed, pinned, into
# ${AKIDB_CACHE:-$HOME/.cache/akidbd}/protoc and reused from there. Needs go and python3.
set -eu

PROTOBUF=v1.36.12   # google.golang.org/protobuf, as in go.mod
CONNECT=v1.19.1     # connectrpc.com/connect, as in go.mod
GRPCIO_TOOLS=1.85.1 # carries protoc

gen=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$gen/../.." && pwd)

for pin in "google.golang.org/protobuf $PROTOBUF" "connectrpc.com/connect $CONNECT"; do
    grep -Eq "^(require)?[[:space:]]*$pin([[:space:]]|\$)" "$root/go.mod" || {
        echo "generate.sh: go.mod does not require $pin: change the pin here too" >&2
        exit 1
    }
done

cache=${AKIDB_CACHE:-$HOME/.cache/akidbd}/protoc/$PROTOBUF-$CONNECT-$GRPCIO_TOOLS
if [ ! -e "$cache/done" ]; then
    mkdir -p "$cache"
    cd "$cache" # outside the module: go install must not touch its go.mod
    GOBIN=$cache/bin go install "google.golang.org/protobuf/cmd/protoc-gen-go@$PROTOBUF"
    GOBIN=$cache/bin go install "connectrpc.com/connect/cmd/protoc-gen-connect-go@$CONNECT"
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet "grpcio-tools==$GRPCIO_TOOLS"
    touch "$cache/done"
fi

cd "$gen"
find . -name '*.proto' | sed 's,^\./,,' | sort | while read -r file; do
    "$cache/venv/bin/python" -m grpc_tools.protoc --proto_path=. \
        --plugin="$cache/bin/protoc-gen-go" --go_out=. --go_opt=paths=source_relative \
        --plugin="$cache/bin/protoc-gen-connect-go" --connect-go_out=. --connect-go_opt=paths=source_relative \
        "$file"
done
