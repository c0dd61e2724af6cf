package devices

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatSpins(t *testing.T) {
	sys := t.TempDir()
	file := func(path, text string) {
		path = filepath.Join(sys, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	disk := func(name, rotational string) { file(name+"/queue/rotational", rotational+"\n") }
	disk("sda", "1")
	file("sda/sda1/partition", "1\n")
	file("sda/device/vendor", "ATA     \n")
	disk("sdb", "0")
	disk("sdc", "1")
	file("sdc/device/vendor", "QEMU    \n")
	disk("vda", "1")
	disk("nbd0", "1")
	disk("nvme0n1", "0")
	for i, back := range []string{"/on/sda", "/on/sdb", "/on/vda", "/on/tmpfs", "/on/loop0", "/on/loop5"} {
		name := "loop" + string(rune('0'+i))
		disk(name, "1")
		file(name+"/loop/backing_file", back+"\n")
	}
	disk("loop6", "1") // nothing attached
	disk("dm-0", "1")
	file("dm-0/slaves/sda1", "")
	file("dm-0/slaves/sdb", "")
	disk("md0", "1")
	file("md0/slaves/sdb", "")
	file("md0/slaves/vda", "")
	on := map[string]string{"/on/sda": "sda", "/on/sdb": "sdb", "/on/vda": "vda", "/on/tmpfs": "", "/on/loop0": "loop0", "/on/loop5": "loop5"}
	for name, want := range map[string]bool{
		"sda": true, "sdb": false, "sdc": false, "vda": false, "nbd0": false, "nvme0n1": false, "": false, "none": false,
		"loop0": true, "loop1": false, "loop2": false, "loop3": false, "loop4": true, "loop5": false, "loop6": false,
		"dm-0": true, "md0": false,
	} {
		require.Equal(t, want, spins(sys, name, func(file string) string { return on[file] }), name)
	}
}
