package gossip

import (
	_ "github.com/hashicorp/memberlist"
	_ "github.com/quic-go/quic-go"
	_ "github.com/quic-go/quic-go/testutils/simnet"
	_ "golang.org/x/net/http2"
)
