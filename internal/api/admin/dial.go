package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
)

// Dial gives a client of the akidbd that listens on the socket at path ("" means DefaultPath). It connects
// once to see that somebody does; its errors say what to do when nobody does. The client keeps no connection
// and needs no close.
func Dial(ctx context.Context, path string) (adminv1connect.AdminServiceClient, error) {
	if path == "" {
		path = DefaultPath
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, dialError(path, err)
	}
	if err := conn.Close(); err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "unix", path)
			if err != nil {
				return nil, dialError(path, err)
			}
			return conn, nil
		},
	}}
	return adminv1connect.NewAdminServiceClient(client, "http://akidbd"), nil
}

// dialError says what the failure means to an operator.
func dialError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no akidbd listens on %s: is it running? (systemctl status akidbd; the path is admin.socket in its configuration)", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no akidbd listens on %s: the socket is left from one that was killed (systemctl start akidbd)", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be opened by this user: be root or join the socket's group (usermod -aG akidb USER)", path)
	}
	return fmt.Errorf("connect to %s: %w", path, err)
}
