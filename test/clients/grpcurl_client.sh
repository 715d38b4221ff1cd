#!/usr/bin/env bash
# grpcurl against AKIDB_URL: reflection, health and the embedding service, knowing no .proto file. Prints
# "ok ..." or "FAIL ..." for each check. GRPCURL is the program.
set -uo pipefail

case $AKIDB_URL in
https://*) flags=(-insecure) ;;
*) flags=(-plaintext) ;;
esac
host=${AKIDB_URL#*://}
[ -n "${AKIDB_API_KEY:-}" ] && flags+=(-H "authorization: Bearer $AKIDB_API_KEY")

# check NAME PATTERN ARGS...: grpcurl's output, errors included, must match the extended regular expression.
check() {
    local name=$1 pattern=$2 out
    shift 2
    out=$("$GRPCURL" "${flags[@]}" "$@" 2>&1)
    if printf '%s' "$out" | tr '\n' ' ' | grep -Eq -- "$pattern"; then
        echo "ok   grpcurl: $name"
    else
        printf 'FAIL grpcurl: %s: want %s, got: %s\n' "$name" "$pattern" "$(printf '%s' "$out" | head -c 600 | tr '\n' ' ')"
    fi
}

check "list" 'akidb\.v1\.EmbeddingService.*grpc\.health\.v1\.Health' "$host" list
check "describe" 'rpc EmbedStream \( stream \.akidb\.v1\.EmbedStreamRequest \) returns' "$host" describe akidb.v1.EmbeddingService
check "describe a message" 'repeated string texts = 2;' "$host" describe akidb.v1.EmbedRequest
check "health" '"status": "SERVING"' "$host" grpc.health.v1.Health/Check
check "health of the service" '"status": "SERVING"' -d '{"service":"akidb.v1.EmbeddingService"}' "$host" grpc.health.v1.Health/Check
check "health of an unknown service" 'Code: NotFound' -d '{"service":"nope"}' "$host" grpc.health.v1.Health/Check
check "ListModels" '"state": "MODEL_STATE_READY"' "$host" akidb.v1.EmbeddingService/ListModels
check "Embed" '"values": \[.*"digest": "sha256-[0-9a-f]{64}".*"route": "ROUTE_(LOCAL|FORWARDED)"' \
    -d "{\"model\":\"${AKIDB_MODEL:-}\",\"texts\":[\"hello\",\"world\"]}" "$host" akidb.v1.EmbeddingService/Embed
check "Embed's headers" 'x-akidb-model: [^ ]+@[0-9a-f]{12}' -v -d '{"texts":["hello"]}' "$host" akidb.v1.EmbeddingService/Embed
check "Embed with nothing" 'Code: InvalidArgument +Message: "texts" is empty' -d '{}' "$host" akidb.v1.EmbeddingService/Embed
check "Embed with an unknown model" 'Code: NotFound' -d '{"model":"no-such-model","texts":["x"]}' "$host" akidb.v1.EmbeddingService/Embed
check "EmbedStream, in order and past an error" '"id": "a",.*"values".*"id": "b",.*"error".*"code": "invalid".*"id": "c",.*"values"' \
    -d '{"id":"a","request":{"texts":["x"]}}{"id":"b","request":{}}{"id":"c","request":{"texts":["y"]}}' "$host" akidb.v1.EmbeddingService/EmbedStream
check "a method that is not there" 'does not (include|expose)|Code: Unimplemented|not found' -d '{}' "$host" akidb.v1.EmbeddingService/Nope
