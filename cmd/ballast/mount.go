package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/mounting"
	"ballast/fusefs"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) mountCommand() *cobra.Command {
	var options []string
	c := &cobra.Command{
		Use:   "mount VOLUME DIR",
		Short: "Mount a volume's files on a directory",
		Long: `Has the volume's daemon mount its files on DIR. If there is no daemon, one is started in the
background, which ends when DIR is unmounted (umount DIR). Returns when the mount answers.

Installed as /sbin/mount.ballast too, it serves mount -t ballast VOLUME DIR and lines of fstab:
  vault /backup ballast defaults,nofail 0 0

Options (-o): ro, noexec, suid, dev, noatime, sync, allow_other, no_allow_other, state-dir=DIR,
run-dir=DIR. Root's mounts are open to all users, as far as modes and ACLs let them, unless
no_allow_other is given. setuid bits and device nodes are stored and have no effect here without suid
and dev. Options of mount(8), systemd and fstab are accepted.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o mounting.Options
			if err := o.ParseOptions(strings.Join(options, ","), false); err != nil {
				return err
			}
			if err := a.mount(cmd.Context(), args[0], args[1], &o); err != nil {
				return err
			}
			return a.done(args[0], "volume %s is mounted on %s", args[0], args[1])
		},
	}
	c.Flags().StringArrayVarP(&options, "options", "o", nil, "options, separated by commas; may be repeated")
	return c
}

// isMountHelper tells whether mount(8) or mount.fuse3(8) calls.
func (a *app) isMountHelper(root *cobra.Command, args []string) bool {
	commands := []string{"help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}
	for _, c := range root.Commands() {
		commands = append(commands, c.Name())
	}
	return mounting.IsHelper(a.name, args, commands)
}

// mountHelperCommand is what a call as a mount helper becomes.
func (a *app) mountHelperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "mount-helper -- VOLUME DIR [-sfnv] [-o OPTIONS]",
		Short:  "Mount a volume as mount(8) wants it",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := mounting.ParseHelper(args)
			if err != nil || h.Fake {
				return err
			}
			if err := a.mount(cmd.Context(), h.Volume, h.Dir, &h.Options); err != nil || !h.Verbose {
				return err
			}
			return a.done(h.Volume, "volume %s is mounted on %s", h.Volume, h.Dir)
		},
	}
}

// mount mounts a volume and returns when the mount answers.
func (a *app) mount(ctx context.Context, volume, dir string, o *mounting.Options) error {
	if o.StateDir != "" {
		a.stateDir = o.StateDir
	}
	if o.RunDir != "" {
		a.runDir = o.RunDir
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	client, err := a.client(volume)
	if err != nil {
		return err
	}
	defer client.Close()
	err = client.Mount(ctx, dir, o.List())
	if r, ok := errors.AsType[*control.Refusal](err); ok && r.Code == "E_NOT_RUNNING" {
		err = a.startMounted(ctx, client, volume, dir, o)
	}
	if err != nil {
		return err
	}
	return answers(dir)
}

// answers checks that the volume is what is found at dir now.
func answers(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return control.Refuse("E_MOUNT", "the mount on %s does not answer: %v", dir, err).WithTry("ballast status")
	}
	if st.Type != unix.FUSE_SUPER_MAGIC {
		return control.Refuse("E_MOUNT", "the daemon has mounted on %s, but in another mount namespace than this", dir).
			WithTry("a service unit without PrivateMounts, PrivateTmp and Protect...")
	}
	return nil
}

// startMounted starts a daemon in the background that serves and mounts the volume.
func (a *app) startMounted(ctx context.Context, client *control.Client, volume, dir string, o *mounting.Options) error {
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	dir, err = fusefs.Prepare(dir, volume) // so that most that is wrong is told here
	if err != nil {
		return control.Refuse("E_MOUNT", "%v", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	logPath := filepath.Join(dirs.Volume(volume), "serve.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return control.Refuse("E_STATE", "%v", err)
	}
	defer log.Close()
	args := []string{"serve", volume, "--state-dir", dirs.State, "--run-dir", dirs.Run, "--mount", dir, "--until-unmounted"}
	if list := o.List(); list != "" {
		args = append(args, "-o", list)
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return a.waitMounted(ctx, client, cmd, dir, logPath)
}

// waitMounted waits until the daemon has mounted, or has ended.
func (a *app) waitMounted(ctx context.Context, client *control.Client, cmd *exec.Cmd, dir, logPath string) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := client.Status(ctx); err == nil && slices.ContainsFunc(s.Daemon.Mounts, func(m control.Mount) bool { return m.Dir == dir }) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			text, _ := os.ReadFile(logPath)
			return control.Refuse("E_FAILED", "the daemon that should mount on %s has ended: %s", dir, lastLines(string(text), 5)).WithTry("ballast serve %s --mount %s", client.Volume, dir)
		case <-ctx.Done():
			cmd.Process.Signal(syscall.SIGTERM)
			return control.Refuse("E_INTERRUPTED", "interrupted")
		}
	}
}

// lastLines returns the last n lines of a text, in one.
func lastLines(text string, n int) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}
