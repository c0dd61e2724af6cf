package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
)

// Client talks to one daemon. It may be used concurrently.
type Client struct {
	Volume string
	Socket string

	http http.Client
}

// NewClient returns a client for the daemon of volume; it touches nothing yet.
func NewClient(volume, socket string) *Client {
	c := &Client{Volume: volume, Socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the volume's status.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.call(ctx, http.MethodGet, PathStatus, nil, &s)
}

// Exports returns the volume's exports.
func (c *Client) Exports(ctx context.Context) (*Exports, error) {
	var e Exports
	return &e, c.call(ctx, http.MethodGet, PathExports, nil, &e)
}

// CreateExport makes an export of that size.
func (c *Client) CreateExport(ctx context.Context, name string, size int64) error {
	return c.call(ctx, http.MethodPost, PathExports, &ExportRequest{Name: name, SizeBytes: size}, &Done{})
}

// ResizeExport changes an export's size; force lets it shrink, and then uuid must be the volume's.
func (c *Client) ResizeExport(ctx context.Context, name string, size int64, force bool, uuid string) error {
	return c.call(ctx, http.MethodPatch, PathExports, &ExportRequest{Name: name, SizeBytes: size, Force: force, VolumeUUID: uuid}, &Done{})
}

// RemoveExport removes an export and its data; uuid must be the volume's.
func (c *Client) RemoveExport(ctx context.Context, name string, force bool, uuid string) error {
	return c.call(ctx, http.MethodDelete, PathExports, &ExportRequest{Name: name, Force: force, VolumeUUID: uuid}, &Done{})
}

// Device changes something about devices; plan is filled in for a dry run instead of done.
func (c *Client) Device(ctx context.Context, q *DeviceRequest, done *Done, plan *Plan) error {
	if q.DryRun {
		return c.call(ctx, http.MethodPost, PathDevices, q, plan)
	}
	return c.call(ctx, http.MethodPost, PathDevices, q, done)
}

// Job starts or changes a job; plan is filled in for a dry run instead of done.
func (c *Client) Job(ctx context.Context, q *JobRequest, done *Done, plan *Plan) error {
	if q.DryRun {
		return c.call(ctx, http.MethodPost, PathJobs, q, plan)
	}
	return c.call(ctx, http.MethodPost, PathJobs, q, done)
}

// Jobs returns the jobs, also those that are over.
func (c *Client) Jobs(ctx context.Context) (*Jobs, error) {
	var j Jobs
	return &j, c.call(ctx, http.MethodGet, PathJobs, nil, &j)
}

// Map returns what would be lost with some devices.
func (c *Client) Map(ctx context.Context, ifLost string) (*Map, error) {
	var m Map
	return &m, c.call(ctx, http.MethodGet, PathMap+"?"+url.Values{"if_lost": {ifLost}}.Encode(), nil, &m)
}

// Why returns where an export stands; off is negative for none in particular.
func (c *Client) Why(ctx context.Context, export string, off int64) (*Why, error) {
	var w Why
	query := url.Values{"export": {export}, "offset": {strconv.FormatInt(off, 10)}}
	return &w, c.call(ctx, http.MethodGet, PathWhy+"?"+query.Encode(), nil, &w)
}

// WhyFile is Why for a file of the mounted volume, by its inode number.
func (c *Client) WhyFile(ctx context.Context, inode uint64, off int64) (*Why, error) {
	var w Why
	query := url.Values{"inode": {strconv.FormatUint(inode, 10)}, "offset": {strconv.FormatInt(off, 10)}}
	return &w, c.call(ctx, http.MethodGet, PathWhy+"?"+query.Encode(), nil, &w)
}

// Mount has the daemon mount the volume on dir, an absolute path, with options as after -o.
func (c *Client) Mount(ctx context.Context, dir, options string) error {
	return c.call(ctx, http.MethodPost, PathMounts, &MountRequest{Dir: dir, Options: options}, &Done{})
}

// Stop asks the daemon to end and returns when it no longer listens.
func (c *Client) Stop(ctx context.Context) error {
	if err := c.call(ctx, http.MethodPost, PathStop, nil, &Done{}); err != nil {
		return err
	}
	// The daemon closes this connection last of all.
	reply, err := c.do(ctx, http.MethodGet, PathStop, nil)
	if err != nil {
		return nil
	}
	io.Copy(io.Discard, reply.Body)
	reply.Body.Close()
	return ctx.Err()
}

// Events calls fn for each event with a number above since; with follow it goes on until ctx ends,
// which is no error.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, fn func(Event) error) error {
	query := url.Values{"since": {strconv.FormatUint(since, 10)}}
	if follow {
		query.Set("follow", "1")
	}
	reply, err := c.do(ctx, http.MethodGet, PathEvents+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	lines := json.NewDecoder(reply.Body)
	for {
		var e Event
		err := lines.Decode(&e)
		switch {
		case ctx.Err() != nil || err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("events of %s: %w", c.Volume, err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, request, answer any) error {
	reply, err := c.do(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if err := json.NewDecoder(reply.Body).Decode(answer); err != nil {
		return fmt.Errorf("answer of the daemon of %s: %w", c.Volume, err)
	}
	return nil
}

// do returns an answer with a good status, or the refusal in it.
func (c *Client) do(ctx context.Context, method, path string, request any) (*http.Response, error) {
	var body io.Reader
	if request != nil {
		text, err := json.Marshal(request)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://ballast"+path, body)
	if err != nil {
		return nil, err
	}
	reply, err := c.http.Do(r)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, Refuse("E_NOT_RUNNING", "volume %s is not being served (nothing listens on %s)", c.Volume, c.Socket).
			WithTry("ballast serve %s", c.Volume)
	case errors.Is(err, fs.ErrPermission):
		return nil, Refuse("E_NOT_PERMITTED", "this user may not talk to the daemon of volume %s (%s)", c.Volume, c.Socket).
			WithTry("the same as root, or as the user that serves the volume")
	case err != nil:
		return nil, err
	case reply.StatusCode >= 300:
		defer reply.Body.Close()
		var refusal Refusal
		text, _ := io.ReadAll(io.LimitReader(reply.Body, MaxRequest))
		if json.Unmarshal(text, &refusal) != nil || refusal.Schema != SchemaError {
			return nil, fmt.Errorf("the daemon of %s answers %s: %.200s", c.Volume, reply.Status, text)
		}
		return nil, &refusal
	}
	return reply, nil
}
