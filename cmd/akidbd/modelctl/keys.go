package modelctl

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"aead.dev/minisign"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/akidb/akidbd/internal/config"
	modelsync "github.com/akidb/akidbd/internal/sync"
)

func keygenCommand() *cobra.Command {
	var out, passwordFile string
	var plain bool
	cmd := &cobra.Command{
		Use:   "keygen --out FILE",
		Short: "Make a key that signs versions",
		Long: "Makes a minisign key pair: the secret key in FILE, the public key in FILE.pub. Nodes whose sync.trusted_keys has\n" +
			"the public key take only versions that the secret key signed: akidbd model push --key FILE.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			public, private, err := minisign.GenerateKey(nil)
			if err != nil {
				return err
			}
			text, err := private.MarshalText()
			if err != nil {
				return err
			}
			if !plain {
				password, err := newPassword(passwordFile)
				if err != nil {
					return err
				}
				if text, err = minisign.EncryptKey(password, private); err != nil {
					return err
				}
			}
			if err := writeNew(out, text, 0o600); err != nil {
				return err
			}
			if err := writeNew(out+".pub", []byte("untrusted comment: minisign public key\n"+public.String()+"\n"), 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "secret key in %s: keep it off the nodes\n\nsync:\n  trusted_keys: [%s]\n", out, public)
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file of the secret key")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the password that encrypts it (default: ask on the terminal)")
	cmd.Flags().BoolVar(&plain, "no-password", false, "do not encrypt it")
	cmd.MarkFlagsMutuallyExclusive("password-file", "no-password")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// maxKeyFile bounds what is read of a key or a password.
const maxKeyFile = 64 << 10

// sign signs m with --key, if there is one.
func (f *flags) sign(m *modelsync.Manifest) error {
	if f.key == "" {
		return nil
	}
	key, err := f.secretKey()
	if err != nil {
		return err
	}
	return m.Sign(key)
}

// secretKey reads --key once: it may ask for a password.
func (f *flags) secretKey() (minisign.PrivateKey, error) {
	if f.secret != nil {
		return *f.secret, nil
	}
	var key minisign.PrivateKey
	text, err := readSmall(f.key)
	if err != nil {
		return key, err
	}
	if minisign.IsEncrypted(text) {
		password, err := password(f.passwordFile, "password of "+f.key+": ")
		if err != nil {
			return key, err
		}
		if key, err = minisign.DecryptKey(password, text); err != nil {
			return key, fmt.Errorf("%s: %w", f.key, err)
		}
	} else if err := key.UnmarshalText(text); err != nil {
		return key, fmt.Errorf("%s is no secret key of minisign: %w", f.key, err)
	}
	f.secret = &key
	return key, nil
}

// trusted are the keys whose manifests are believed: those of the configuration, as on the nodes. Without any, whoever
// signs believes what the same key signed: nothing of somebody else is signed by going back to it.
func (f *flags) trusted(cfg *config.Config) (modelsync.Keys, error) {
	if cfg != nil && len(cfg.Sync.TrustedKeys) > 0 {
		keys, err := modelsync.ParseKeys(cfg.Sync.TrustedKeys)
		if err != nil {
			return keys, fmt.Errorf("sync.trusted_keys: %w", err)
		}
		return keys, nil
	}
	if f.key == "" {
		return modelsync.Keys{}, nil
	}
	key, err := f.secretKey()
	if err != nil {
		return modelsync.Keys{}, err
	}
	public, ok := key.Public().(minisign.PublicKey)
	if !ok {
		return modelsync.Keys{}, fmt.Errorf("%s has no public key", f.key)
	}
	return modelsync.ParseKeys([]string{public.String()})
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d", path, info.Size(), maxKeyFile)
	}
	return os.ReadFile(path)
}

func newPassword(file string) (string, error) {
	first, err := password(file, "password of the new key: ")
	if err != nil || file != "" {
		return first, err
	}
	again, err := password("", "again: ")
	if err == nil && again != first {
		err = errors.New("the passwords differ")
	}
	return first, err
}

// password reads it from a file, or on the terminal.
func password(file, prompt string) (string, error) {
	if file != "" {
		text, err := readSmall(file)
		return strings.TrimRight(string(text), "\r\n"), err
	}
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return "", errors.New("the key has a password and there is no terminal to ask on: set --password-file")
	}
	fmt.Fprint(os.Stderr, prompt)
	text, err := term.ReadPassword(in)
	fmt.Fprintln(os.Stderr)
	return string(text), err
}
