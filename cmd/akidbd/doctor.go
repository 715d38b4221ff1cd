package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/cmd/akidbd/doctor"
	"github.com/akidb/akidbd/internal/config"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/infer/ort"
	"github.com/akidb/akidbd/internal/sync/bucket"
)

// daemonUser is whom the packages let the daemon run as.
const daemonUser = "akidb"

func doctorCommand() *cobra.Command {
	var flags configFlags
	var admin adminFlags
	var dropIn bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine and say what keeps akidbd from serving well on it",
		Long: "Looks at the library and its providers, the GPU, power mode and throttling of a Jetson, UDP buffers, clock, ports,\n" +
			"certificates, bucket, peers and disk, and says for each what to do. It changes nothing. Run it as root, or some\n" +
			"things cannot be seen. Exit code 1 when something is red.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m := theMachine(&flags, &admin)
			if dropIn {
				text := doctor.DropIn(m)
				if text == "" {
					return errors.New("no GPU of NVIDIA has device files here: the unit needs no drop-in")
				}
				_, err := cmd.OutOrStdout().Write([]byte(text))
				return err
			}
			r := doctor.Examine(cmd.Context(), m)
			if admin.json {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				if err := out.Encode(r); err != nil {
					return err
				}
			} else {
				r.Print(cmd.OutOrStdout(), isTerminal(cmd.OutOrStdout()))
			}
			if r.Level == doctor.Red {
				return errors.New("something is red")
			}
			return nil
		},
	}
	flags.add(cmd)
	admin.add(cmd)
	cmd.Flags().BoolVar(&dropIn, "drop-in", false, "print a drop-in for akidbd.service that allows the GPU of this machine, and nothing else")
	return cmd
}

func theMachine(flags *configFlags, admin *adminFlags) doctor.Machine {
	m := doctor.Machine{
		Files: os.DirFS("/"), Arch: runtime.GOARCH, ConfigFile: flags.path(), Now: time.Now(), User: findUser(daemonUser),
		Library: findLibrary,
		Node:    func(ctx context.Context) (doctor.Node, error) { return askNode(ctx, admin) },
	}
	m.Config, m.ConfigErr = flags.load()
	if m.Config != nil && m.Config.Sync.Bucket != "" {
		m.Bucket = func(ctx context.Context) (string, error) { return m.Config.Sync.Bucket, readBucket(ctx, m.Config.Sync) }
	}
	return m
}

// readBucket lists what there is first.
func readBucket(ctx context.Context, c config.Sync) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	b, err := bucket.OpenS3(ctx, bucket.S3Config{URL: c.Bucket, Endpoint: c.Endpoint, Region: c.AWSRegion, PathStyle: c.PathStyle})
	if err != nil {
		return err
	}
	for _, err = range b.List(ctx, "") {
		break
	}
	return errors.Join(err, b.Close())
}

func findUser(name string) doctor.Owner {
	owner := doctor.Owner{Name: name, UID: -1}
	u, err := user.Lookup(name)
	if err != nil {
		return owner
	}
	if id, err := strconv.Atoi(u.Uid); err == nil {
		owner.UID = id
	}
	groups, _ := u.GroupIds()
	for _, g := range groups {
		if id, err := strconv.Atoi(g); err == nil {
			owner.GIDs = append(owner.GIDs, id)
		}
	}
	return owner
}

func findLibrary(configured string) (path, version string, err error) {
	if path, err = ort.FindLibrary(configured); err != nil {
		return "", "", err
	}
	version, _, err = ort.LoadOpen(path, slog.New(slog.DiscardHandler))
	return path, version, err
}

func askNode(ctx context.Context, flags *adminFlags) (n doctor.Node, err error) {
	c, err := flags.connect(ctx)
	if err != nil {
		return n, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := c.Status(ctx, connect.NewRequest(&adminv1.StatusRequest{}))
	if err != nil {
		return n, err
	}
	s := res.Msg
	n = doctor.Node{State: s.State, Health: s.Health, Reason: s.Reason, Checks: map[string]string{}}
	for _, l := range s.Listeners {
		n.Listens = append(n.Listens, l.Address)
	}
	for _, m := range s.Models {
		n.Models = append(n.Models, doctor.Model{Name: m.Name, State: m.State, Provider: m.Provider})
	}
	for _, m := range s.Members {
		if !m.Self {
			n.Peers = append(n.Peers, doctor.Peer{Name: m.Node, Region: m.Region, Up: m.Link != "down", Cause: m.LinkCause})
		}
	}
	for _, c := range s.Checks {
		n.Bucket = n.Bucket || c.Name == "s3" && c.State != "disabled"
		if c.State == "failing" {
			n.Checks[c.Name] = c.Reason
		}
	}
	return n, nil
}
