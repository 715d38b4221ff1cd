// Package clients checks a running akidbd with client programs that know nothing of it: OpenAI's own
// libraries and grpcurl. run.sh is the entry; the test runs it against the server that AKIDB_URL names.
package clients
