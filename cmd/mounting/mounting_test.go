package mounting

import (
	"testing"

	"ballast/cmd/control"
	"ballast/fusefs"

	"github.com/stretchr/testify/require"
)

func TestHelperCommandLines(t *testing.T) {
	for _, c := range []struct {
		args []string
		want Helper
	}{
		{[]string{"vault", "/backup"}, Helper{Volume: "vault", Dir: "/backup"}},
		{[]string{"vault", "/backup", "-o", "rw,nofail,x-systemd.requires=a@b.service,_netdev,noatime"},
			Helper{Volume: "vault", Dir: "/backup", Options: Options{Flags: fusefs.Flags{NoAtime: true}}}},
		{[]string{"vault", "/backup", "-fnv", "-t", "ballast", "-oro,dev", "-o", "suid,noexec"},
			Helper{Volume: "vault", Dir: "/backup", Fake: true, Verbose: true, Options: Options{Flags: fusefs.Flags{ReadOnly: true, Dev: true, Suid: true, NoExec: true}}}},
		{[]string{"-s", "vault", "/backup", "-o", "frobnicate,sync"}, Helper{Volume: "vault", Dir: "/backup", Options: Options{Flags: fusefs.Flags{Sync: true}}}},
		{[]string{"vault", "/b", "-o", "ro,rw,dev,nodev,suid,nosuid,noexec,exec,state-dir=/x,run-dir=/y"},
			Helper{Volume: "vault", Dir: "/b", Options: Options{StateDir: "/x", RunDir: "/y"}}},
	} {
		got, err := ParseHelper(c.args)
		require.NoError(t, err, c.args)
		require.Equal(t, c.want, *got)
	}
}

func TestHelperRefusals(t *testing.T) {
	for _, c := range []struct {
		args      []string
		want, try string
	}{
		{[]string{"vault"}, `a volume and a directory are needed, not ["vault"]`, ""},
		{[]string{"vault", "/b", "/c"}, "a volume and a directory are needed", ""},
		{[]string{"vault", "/b", "-o"}, "-o needs a value", ""},
		{[]string{"vault", "/b", "-x"}, "there is no option -x", ""},
		{[]string{"vault", "/b", "-N", "/proc/1/ns/mnt"}, "another mount namespace", ""},
		{[]string{"vault", "/b", "-o", "noatme"}, "there is no mount option noatme", "-o noatime"},
		{[]string{"vault", "/b", "-o", "alow_other"}, "there is no mount option alow_other", "-o allow_other"},
		{[]string{"vault", "/b", "-o", "frobnicate"}, "there is no mount option frobnicate", "ballast mount --help"},
		{[]string{"vault", "/b", "-o", "ro=1"}, `option ro takes no value, not "1"`, "-o ro"},
		{[]string{"vault", "/b", "-o", "state-dir"}, "option state-dir needs a value", ""},
		{[]string{"vault", "/b", "-o", "remount,rw"}, "cannot be mounted anew", "umount DIR"},
	} {
		_, err := ParseHelper(c.args)
		require.ErrorContains(t, err, c.want)
		r := control.AsRefusals(err)[0]
		require.Equal(t, control.ExitUsage, r.Exit)
		if c.try != "" {
			require.Contains(t, r.Try[0], c.try)
		}
	}
}

func TestWhoIsAHelper(t *testing.T) {
	commands := []string{"mount", "serve", "status"}
	require.True(t, IsHelper("/sbin/mount.ballast", nil, commands))
	require.True(t, IsHelper("ballast", []string{"vault", "/backup", "-o", "rw"}, commands))
	require.True(t, IsHelper("ballast", []string{"vault", "/backup"}, commands))
	require.False(t, IsHelper("ballast", []string{"mount", "/backup"}, commands))
	require.False(t, IsHelper("ballast", []string{"--json", "/backup"}, commands))
	require.False(t, IsHelper("ballast", []string{"sratus", "vault"}, commands))
	require.False(t, IsHelper("ballast", []string{"vault", "/a", "/b"}, commands))
}

func TestOptionsAreWrittenAsTheyAreRead(t *testing.T) {
	for _, list := range []string{"", "ro", "allow_other,dev,noatime,noexec,ro,suid,sync", "no_allow_other"} {
		var o Options
		require.NoError(t, o.ParseOptions(list, false))
		require.Equal(t, list, o.List())
	}
}
