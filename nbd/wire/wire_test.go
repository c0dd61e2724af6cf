package wire_test

import (
	"encoding/hex"
	"testing"

	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

// TestLayouts holds every header against its bytes, both ways.
func TestLayouts(t *testing.T) {
	golden := func(want string, size int, got []byte) []byte {
		t.Helper()
		require.Equal(t, want, hex.EncodeToString(got))
		require.Len(t, got, size)
		return got
	}
	o := wire.Option{OptionMagic: wire.MagicOption, ID: wire.OptGo, Length: 0x01020304}
	require.Equal(t, o, wire.ParseOption(golden("49484156454f50540000000701020304", wire.OptionSize, wire.AppendOption(nil, o))))
	or := wire.OptionReply{ReplyMagic: wire.MagicOptionReply, ID: wire.OptList, Type: wire.RepErrUnknown, Length: 5}
	require.Equal(t, or, wire.ParseOptionReply(golden("0003e889045565a9000000038000000600000005", wire.OptionReplySize, wire.AppendOptionReply(nil, or))))
	rq := wire.Request{RequestMagic: wire.MagicRequest, CommandFlags: wire.CmdFlagFUA, Type: wire.CmdWriteZeroes, Handle: 0x1122334455667788, Offset: 1 << 40, Length: 4096}
	require.Equal(t, rq, wire.ParseRequest(golden("25609513000100061122334455667788000001000000000000001000", wire.RequestSize, wire.AppendRequest(nil, rq))))
	rp := wire.Reply{ReplyMagic: wire.MagicReply, Error: uint32(wire.ENOSPC), Handle: 1}
	require.Equal(t, rp, wire.ParseReply(golden("674466980000001c0000000000000001", wire.ReplySize, wire.AppendReply(nil, rp))))
	ch := wire.Chunk{Magic: wire.MagicChunk, Flags: wire.ChunkFlagDone, Type: wire.ChunkError, Handle: 2, Length: 6}
	require.Equal(t, ch, wire.ParseChunk(golden("668e33ef00018001000000000000000200000006", wire.ChunkSize, wire.AppendChunk(nil, ch))))
}
