package gossip

// memberlist's message types that matter before memberlist sees them.
const (
	typePing     = 0
	typeIndirect = 1
	typeAck      = 2
	typeCompound = 7
	typeCompress = 9
	typeEncrypt  = 10
	typeNack     = 11
	typeCRC      = 12
	typeLabel    = 244
	maxNesting   = 4
)

// plain says that a packet holds nothing compressed: nobody here sends that, and 1 KiB of it can become 40 MiB.
func plain(b []byte) bool {
	return consists(b, func(kind byte) bool { return kind != typeCompress && kind != typeEncrypt })
}

// tells says that a packet only brings news, and neither asks whether somebody lives nor answers.
func tells(b []byte) bool {
	return consists(b, func(kind byte) bool {
		return kind != typePing && kind != typeIndirect && kind != typeAck && kind != typeNack
	})
}

// consists says that a packet is well formed and all messages in it are of a kind.
func consists(b []byte, kind func(byte) bool) bool {
	if len(b) > 2*MaxPacket {
		return false
	}
	if len(b) >= 2 && b[0] == typeLabel {
		if len(b) < 2+int(b[1]) {
			return false
		}
		b = b[2+int(b[1]):]
	}
	return messageIs(b, kind, 0)
}

func messageIs(b []byte, kind func(byte) bool, depth int) bool {
	switch {
	case len(b) == 0 || depth > maxNesting:
		return false
	case b[0] == typeCRC && len(b) > 5: // memberlist looks for it once; deeper it is no message at all
		return messageIs(b[5:], kind, depth+1)
	case b[0] != typeCompound:
		return kind(b[0])
	case len(b) < 2 || len(b) < 2+2*int(b[1]):
		return false
	}
	parts := int(b[1])
	rest := b[2+2*parts:]
	for i := range parts {
		n := int(b[2+2*i])<<8 | int(b[3+2*i])
		if n > len(rest) || !messageIs(rest[:n], kind, depth+1) {
			return false
		}
		rest = rest[n:]
	}
	return true
}
