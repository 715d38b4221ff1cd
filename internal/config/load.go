package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxFile bounds a configuration file; ten thousand times the length of the commented example would be a
// mistake.
const maxFile = 1 << 20

// Load reads the file at path and the environment, env as os.Environ gives it, and validates the result. With
// path "" there is no file. The error is an *Error, but for a file that cannot be read.
func Load(path string, env []string) (*Config, error) {
	if path == "" {
		return Parse(nil, "", env)
	}
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(data, path, env)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if info.IsDir() {
		return nil, fmt.Errorf("%s: a directory, not a configuration file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1)) // Parse says it when it is longer
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Parse reads data as a configuration file called name in messages, then the environment, and validates the
// result. The error is an *Error that lists every problem found.
func Parse(data []byte, name string, env []string) (*Config, error) {
	if len(data) > maxFile {
		return nil, &Error{Problems: []Problem{{
			Source:  name,
			Message: fmt.Sprintf("longer than %d bytes, the limit of a configuration file", maxFile),
		}}}
	}
	c := Default()
	c.origins = make(map[string]origin)
	r := &report{}
	vars := splitEnv(env)
	applyPlainEnv(c, vars)
	decodeFile(c, data, name, r)
	applyEnv(c, vars, r)
	// Values that could not be read still hold their defaults, so the rules speak only of what was understood.
	c.validate(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Validate checks every rule. The error is an *Error; problems of values that came from a file name its line.
func (c *Config) Validate() error {
	r := &report{}
	c.validate(r)
	return r.err()
}

// DefaultModel is the name of the model that answers requests which name none or "default": the one that says
// default, else the one called so by name or alias, else the first; "" without models.
func (c *Config) DefaultModel() string {
	if i := c.claimsDefault(); i != nil {
		return c.Models[i[0]].Name
	}
	if len(c.Models) > 0 {
		return c.Models[0].Name
	}
	return ""
}

// claimsDefault lists the indexes of the models that say default or are called so.
func (c *Config) claimsDefault() []int {
	var claims []int
	for i, m := range c.Models {
		called := m.Name == DefaultName
		for _, a := range m.Aliases {
			called = called || a == DefaultName
		}
		if m.Default || called {
			claims = append(claims, i)
		}
	}
	return claims
}

// NodeName is node.name or, when that is empty, the host name that hostname gives (os.Hostname).
func (c *Config) NodeName(hostname func() (string, error)) (string, error) {
	if c.Node.Name != "" {
		return c.Node.Name, nil
	}
	name, err := hostname()
	if err != nil {
		return "", fmt.Errorf("no host name to call this node by, set node.name: %w", err)
	}
	if !nodeName.MatchString(name) {
		return "", errors.New("the host name " + quote(name) + " does not serve as node.name, " + nodeNameRule + ": set node.name")
	}
	return name, nil
}

// SystemAdminSocket is the admin socket of a daemon that runs as a system service.
const SystemAdminSocket = "/run/akidbd/admin.sock"

// DefaultAdminSocket is the admin socket of a daemon whose admin.socket is empty: in the directory that systemd
// made for it ($RUNTIME_DIRECTORY), else SystemAdminSocket for root, else below $XDG_RUNTIME_DIR. A client that
// finds nothing there should try SystemAdminSocket too, because it may run as another user than the daemon.
func DefaultAdminSocket(getenv func(string) string, uid int) string {
	if dir, _, _ := strings.Cut(getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		return dir + "/admin.sock"
	}
	if dir := getenv("XDG_RUNTIME_DIR"); uid != 0 && dir != "" {
		return dir + "/akidbd/admin.sock"
	}
	return SystemAdminSocket
}
